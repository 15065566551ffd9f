"""A Kubernetes cluster whose nodes are network namespaces: a real control plane, and a stand-in for the kubelets."""
