//! Certificates: ordered from an ACME authority, installed by hand or issued by the app's own authority; kept encrypted,
//! renewed in time, and found by the name a client asks for.
