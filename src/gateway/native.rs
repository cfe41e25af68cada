//! Sessions over a stream of bytes: each frame is preceded by its length, four bytes big-endian. A QUIC
//! stream of a native agent, and the Unix socket of a node.
