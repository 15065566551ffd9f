"""Where nodes find each other: one small interface, several sources."""
