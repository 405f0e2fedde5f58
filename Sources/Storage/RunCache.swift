// Keeps the index and filter chunks in memory within a budget. The runs hold the parts; this holds the account.

import Synchronization

/// Second chance over the parts in memory (Corbató 1968): what was used since the hand came by stays.
final class RunCache: Sendable {
    private struct Entry {
        weak var run: Run?
        var part: Int
        var bytes: Int
    }
    private struct Account {
        var entries: [Entry] = []
        var hand = 0
        var bytes = 0
    }

    let bytesMax: Int
    private let account = Mutex(Account())

    init(bytesMax: Int) { self.bytesMax = bytesMax }

    var bytes: Int { account.withLock { $0.bytes } }

    /// A part was loaded. Others go, if it takes the account over the budget.
    func admit(_ run: Run, part: Int, bytes: Int) {
        // Runs met on the way are let go outside of the lock: the last holder's deinit comes back here.
        var met: [Run] = []
        account.withLock { account in
            account.entries.append(Entry(run: run, part: part, bytes: bytes))
            account.bytes += bytes
            var looks = account.entries.count * 2
            while account.bytes > bytesMax, account.entries.count > 1, looks > 0 {
                looks -= 1
                if account.hand >= account.entries.count { account.hand = 0 }
                let entry = account.entries[account.hand]
                let owner = entry.run
                if let owner { met.append(owner) }
                if owner?.evict(entry.part) ?? true {
                    account.bytes -= entry.bytes
                    account.entries.swapAt(account.hand, account.entries.count - 1)
                    account.entries.removeLast()
                } else {
                    account.hand += 1
                }
            }
        }
        met.removeAll()
    }

    /// Takes runs that are gone off the account.
    func forgetTheDead() {
        // As above: whoever else lets go meanwhile must not make this the last holder under the lock.
        var met: [Run] = []
        account.withLock { account in
            account.entries.removeAll { entry in
                if let run = entry.run {
                    met.append(run)
                    return false
                }
                account.bytes -= entry.bytes
                return true
            }
        }
        met.removeAll()
    }
}
