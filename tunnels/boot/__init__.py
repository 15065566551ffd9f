"""What brings a host back after a reboot before anything else runs on it: a root of our own on its disk, two units."""
