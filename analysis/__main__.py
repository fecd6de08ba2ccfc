"""`python -m analysis fit TABLE.csv ...`"""

import sys

from analysis.cli import main

sys.exit(main())
