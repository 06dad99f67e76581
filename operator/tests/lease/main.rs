//! Elections on a real API server: `kube-apiserver` and etcd, no nodes.

mod control_plane;
mod race;
mod succession;
mod suspension;
