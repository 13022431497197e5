"""I run plans: the row program (`replica`), the routing of rows (`conductor`), and where both live (`ray`, `local`)."""
