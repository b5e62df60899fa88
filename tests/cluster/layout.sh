# shellcheck shell=bash disable=SC2034 # what is set here is used there
# Where the cluster is. The addresses are written out in config/ too.

# Everything of a running cluster is in here, and its programs are known by their paths in it.
state=/var/lib/eve-test-cluster
kubeconfig=$state/admin.kubeconfig
bin=$state/bin
# The bridge between the control plane, which is on the machine itself, and the node.
bridge=eve-cluster
host=172.30.255.1
node=172.30.255.2
registry=$host:5000
services=10.96.0.0/16
pods=10.244.0.0/16
simulated_pods=10.250.0.0/16
simulated_nodes=10
