import java.util.*;
import java.util.function.*;
import java.util.stream.*;

class Problem {
    record Pair<A, B>(A first, B second) {}

    static <T extends Comparable<T>> Optional<T> largest(Collection<T> all) {
        return all.stream().max(Comparator.naturalOrder());
    }

    static int[] primes(int limit) {
        boolean[] composite = new boolean[limit + 1];
        List<Integer> found = new ArrayList<>();
        for (int n = 2; n <= limit; n++) {
            if (composite[n]) continue;
            found.add(n);
            for (long m = (long) n * n; m <= limit; m += n) composite[(int) m] = true;
        }
        return found.stream().mapToInt(Integer::intValue).toArray();
    }
}

public class Warm {
    public static void main(String[] arguments) throws Exception {
        Map<String, List<Integer>> groups = new TreeMap<>();
        for (int prime : Problem.primes(100)) {
            groups.computeIfAbsent(prime % 4 == 1 ? "one" : "three", key -> new ArrayList<>()).add(prime);
        }
        BiFunction<Integer, Integer, Integer> sum = (a, b) -> a + b;
        StringBuilder text = new StringBuilder();
        for (var entry : groups.entrySet()) {
            text.append(entry.getKey()).append(": ").append(entry.getValue().stream().reduce(0, sum::apply)).append('\n');
        }
        String names = Stream.of("b", "a").sorted().collect(Collectors.joining(", "));
        if (!Problem.largest(List.of(3, 1, 2)).equals(Optional.of(3))) throw new AssertionError(names);
        assert new Problem.Pair<>(1, "x").first() == 1;
        try {
            Integer.parseInt("x");
        } catch (NumberFormatException error) {
            System.out.printf("%s %s%n", text, error.getMessage());
        }
    }
}
