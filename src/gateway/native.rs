//! Sessions over a stream of bytes: each frame is preceded by its length, four bytes big-endian. A QUIC
//! stream of a native agent, and the Unix socket of a node.
#[allow(missing_docs)]
pub async fn serve_quic(
    _connection: quinn::Connection,
    _agent: crate::wire::ids::AgentAddr,
    _hub: &crate::gateway::hub::HubHandle,
) {
}
#[allow(missing_docs)]
pub async fn serve_local(
    _stream: tokio::net::UnixStream,
    _agent: crate::wire::ids::AgentAddr,
    _hub: &crate::gateway::hub::HubHandle,
) {
}
