"""The commands of ``tokenweir``: one module each, with ``add_arguments`` and ``run``."""
