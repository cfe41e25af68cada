//! Who is who: the mesh CA, certificates and everything TLS needs.
