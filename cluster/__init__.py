"""Where everything runs: Ray, the RLlib shell, the run folder, the command line, the report."""
