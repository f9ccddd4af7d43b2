"""Where data comes from: one file a format, each with ``read(config, data_dir, progress) -> Data``."""
