// The TypeScript compiler as a start-up snapshot of Node, with the standard library's types parsed and bound.
// It stands behind typescript.js, in one file: a snapshot's entry may require nothing but Node's own modules.
const { startupSnapshot } = require('v8');
const { readFileSync } = require('fs');
const settings = {
  target: ts.ScriptTarget.ES2021,
  module: ts.ModuleKind.CommonJS,
  skipLibCheck: true,
  lib: ['lib.es2021.d.ts'],
};
const library = new Map();

function compile(files) {
  const host = ts.createCompilerHost(settings);
  host.getDefaultLibLocation = () => LIBRARY;
  const read = host.getSourceFile;
  host.getSourceFile = (name, version, ...more) => {
    if (!name.startsWith(LIBRARY)) return read.call(host, name, version, ...more);
    if (!library.has(name)) library.set(name, ts.createSourceFile(name, readFileSync(name, 'utf8'), version));
    return library.get(name);
  };
  const program = ts.createProgram(files, settings, host);
  const found = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics];
  for (const diagnostic of ts.sortAndDeduplicateDiagnostics(found)) {
    process.stdout.write(ts.formatDiagnostic(diagnostic, {
      getCanonicalFileName: (name) => name,
      getCurrentDirectory: () => process.cwd(),
      getNewLine: () => '\n',
    }));
  }
  return found.length ? 2 : 0;
}

if (compile(['warm.ts']) !== 0) throw new Error('a sample program does not compile');
startupSnapshot.setDeserializeMainFunction(() => { process.exitCode = compile(process.argv.slice(1)); });
