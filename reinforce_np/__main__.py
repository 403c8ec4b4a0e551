"""``python -m reinforce_np``."""

import sys

if __name__ == "__main__":
    try:
        from reinforce_np.command_line import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(130)
