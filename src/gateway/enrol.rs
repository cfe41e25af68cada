//! SHIM
#[allow(missing_docs)]
pub async fn serve(_connection: quinn::Connection, _node: crate::node::Handle) {}
