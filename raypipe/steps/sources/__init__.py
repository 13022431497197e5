"""Steps that rows come from: lists, files, datasets, generators."""
