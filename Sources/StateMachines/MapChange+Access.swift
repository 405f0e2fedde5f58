// What changes of users and roles do to a map, or why they do nothing.

import Messages
import Primitives
import Ring

extension MapChange {
    /// The policy as it is to be, checked as a whole.
    func changingAccess(_ map: ClusterMap) throws(Refusal) -> MapEdit {
        guard let policy = map.access else {
            throw .invalid(
                "this map has no users and roles: it is a client's, or of a feature level below \(FeatureLevel.access)")
        }
        var changed = policy
        switch self {
        case .putRole(let role):
            if let problem = role.problem { throw .invalid(problem) }
            changed.put(role)
            try keepAdministrator(changed, "role \(role.name) without admin on everything")
        case .deleteRole(let name):
            guard !AccessPolicy.builtInRoles.contains(where: { $0.name == name }) else {
                throw .invalid("the role \(name) is built in, and can't be deleted")
            }
            guard policy.role(name) != nil else { throw .invalid(Self.missing("role", name)) }
            let holders = policy.users.filter { $0.roles.contains(name) }
            if let first = holders.first {
                throw .invalid(
                    "\(holders.count == 1 ? "user \(first.name) has" : "\(holders.count) users, \(first.name) first, have") "
                        + "the role \(name): take it from them before it is deleted")
            }
            changed.removeRole(name)
        case .putUser(let user):
            if let problem = user.problem { throw .invalid(problem) }
            changed.put(user)
            try keepAdministrator(changed, "user \(user.name) without admin on everything")
        case .deleteUser(let name):
            guard policy.user(name) != nil else { throw .invalid(Self.missing("user", name)) }
            changed.removeUser(name)
            try keepAdministrator(changed, "user \(name) gone")
        case .setAccessRequired(let isRequired):
            changed.isRequired = isRequired
            guard !isRequired || changed.hasAdministrator else {
                throw .invalid(
                    "no user has admin on everything, and nobody could change anything any more: give some user the role "
                        + "admin first")
            }
        default: preconditionFailure("another change")
        }
        if let problem = changed.problem { throw .invalid(problem) }
        return MapEdit(changed == policy ? .nothing : .access(changed), of: map)
    }

    private func keepAdministrator(_ changed: AccessPolicy, _ what: String) throws(Refusal) {
        guard changed.isRequired, !changed.hasAdministrator else { return }
        throw .invalid(
            "with \(what), nobody could change anything any more: give another user the role admin first, or let "
                + "authentication not be required")
    }

    /// A name comes from outside: one that is none is not repeated.
    private static func missing(_ what: String, _ name: String) -> String {
        AccessPolicy.isName(name) ? "there is no \(what) \(name)" : "there is no \(what) of this name"
    }
}
