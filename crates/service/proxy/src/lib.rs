//! The L7 proxy: takes HTTP/1.1, HTTP/2 and upgraded connections on the node's public ports and hands each request to
//! a ready instance of the service its route names.
