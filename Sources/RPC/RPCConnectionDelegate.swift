// What the owner of a connection is told. Owns the interface only.

public import Primitives

/// Told what happens on a connection. Without it, completions are closures. All calls come on the connection's event
/// loop.
/// The connection holds its delegate until it is closed.
public protocol RPCConnectionDelegate: AnyObject, Sendable {
    /// The handshake is done: calls may be sent.
    func connectionUp(_ connection: RPCConnection, welcome: Welcome)
    /// An attempt failed or the connection ended; the completions of all calls in flight came before. It is being tried
    /// again, unless the reason is `closed`.
    func connectionDown(_ connection: RPCConnection, reason: RPCError)
    /// The answer to a call with a tag: once for each call that did not throw.
    func completed(_ connection: RPCConnection, tag: UInt64, _ result: Result<Bytes, RPCError>)
    /// A frame without an answer, from the host that was called. Hosts send them to hosts only.
    func received(_ connection: RPCConnection, service: UInt16, method: UInt16, payload: Bytes)
    /// All answers of what was read in one go were completed. Calls made until this returns go out in one write.
    func readComplete(_ connection: RPCConnection)
    /// The socket takes bytes again, after one-way frames or calls were refused.
    func connectionWritable(_ connection: RPCConnection)
}

extension RPCConnectionDelegate {
    public func received(_ connection: RPCConnection, service: UInt16, method: UInt16, payload: Bytes) {}
    public func readComplete(_ connection: RPCConnection) {}
    public func connectionWritable(_ connection: RPCConnection) {}
}
