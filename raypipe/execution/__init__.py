"""Runs plans: rows go from step to step (`conductor`), through workers (`worker`), on Ray (`ray`) or here (`local`)."""
