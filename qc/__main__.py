"""``python -m qc`` is ``qc``."""

from qc.cli import main

main()
