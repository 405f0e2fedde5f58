// How many files and sockets this process may have open.

import Glibc

enum DescriptorLimit {
    /// As far as the limit is raised: more than any bound on connections, and no more than programs go well with.
    private static let raisedMax: rlim_t = 65_536

    /// Raises the soft limit as far as the hard one allows, to at most 65,536; one that is higher stays. Returns the limit
    /// in effect, or nil if the system does not tell.
    static func raise() -> Int? {
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { return nil }
        let wanted = min(limit.rlim_max, raisedMax)
        if limit.rlim_cur < wanted {
            var raised = limit
            raised.rlim_cur = wanted
            if setrlimit(resource, &raised) == 0 { limit = raised }
        }
        return Int(clamping: limit.rlim_cur)
    }
}
