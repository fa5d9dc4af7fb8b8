"""``python -m flywheel`` and ``accelerate launch -m flywheel``: the same program as ``flywheel``."""

from flywheel.cli.app import main

if __name__ == "__main__":
    main()
