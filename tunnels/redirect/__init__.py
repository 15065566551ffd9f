"""The program on the NIC itself that stops packets which eBPF or tc redirect past nftables (docs/adr/0009)."""
