"""``python -m qc`` is ``qc``."""

from qc.cli.main import main

main()
