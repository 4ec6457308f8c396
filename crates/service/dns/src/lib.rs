//! The DNS server of a node: names of services and instances, and everything else asked further up.
