"""``python -m geoloss_kernels`` is the ``geoloss`` command."""

import sys

from geoloss_kernels.lesions.cli import main

if __name__ == "__main__":
    sys.exit(main())
