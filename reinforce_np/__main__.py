"""``python -m reinforce_np``."""

import sys

from reinforce_np.command_line import main

if __name__ == "__main__":
    sys.exit(main())
