"""Images in a Ceph cluster (RBD): which one a URI names, and one client of it."""
