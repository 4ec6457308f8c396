//! A node of the test's own: its state directory, its network namespace, its processes; all gone with it.
