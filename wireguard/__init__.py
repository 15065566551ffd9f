"""WireGuard devices: model, diff, kernel and userspace drivers, wg-quick text."""
