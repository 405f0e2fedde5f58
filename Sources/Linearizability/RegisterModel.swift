// The register: one key of a key-value store with revisions. Knows nothing of time and clients.

/// What a caller asks of a register.
public enum RegisterInput<Value: Hashable & Sendable>: Hashable, Sendable {
    /// What must hold for a compare-and-set to take effect.
    public enum Condition: Hashable, Sendable {
        /// The register has this value; nil: it is absent.
        case value(Value?)
        /// The register is there and got its value at this revision.
        case revision(UInt64)
    }

    case put(Value)
    case get
    case delete
    /// Sets the value, or deletes with nil, if the condition holds; otherwise it has no effect.
    case compareAndSet(Condition, to: Value?)
}

/// What a register answers. Revisions are nil where a history does not have them.
public enum RegisterOutput<Value: Hashable & Sendable>: Hashable, Sendable {
    /// A put, a delete, or a compare-and-set whose condition held: it took effect at this revision.
    case changed(revision: UInt64?)
    /// A get: the value and the revision at which it was set; nil and nil for an absent register.
    case found(Value?, revision: UInt64?)
    /// A compare-and-set whose condition did not hold.
    case conditionFailed
}

/// A register with put, get, delete and compare-and-set, absent in the beginning.
///
/// Each change has a revision that is larger than those of the changes before it; gaps are allowed, because a group of
/// registers may share one counter. One approximation: that a compare-and-set by revision failed says nothing about a
/// revision that no answer has told. So a violation is always one, and only those that need this deduction are missed.
public struct RegisterModel<Value: Hashable & Sendable>: SequentialModel {
    public typealias Input = RegisterInput<Value>
    public typealias Output = RegisterOutput<Value>

    public struct State: Hashable, Sendable {
        public var value: Value?
        /// Of the last change, when it is known; else it is larger than this.
        public var revision: UInt64
        public var isRevisionKnown: Bool

        public init(value: Value?, revision: UInt64, isRevisionKnown: Bool) {
            self.value = value
            self.revision = revision
            self.isRevisionKnown = isRevisionKnown
        }
    }

    public var initialState: State { State(value: nil, revision: 0, isRevisionKnown: true) }

    public init() {}

    public func apply(_ input: Input, _ output: Output?, to state: State) -> State? {
        switch (input, output) {
        case (.put(let value), .changed(let revision)):
            return changed(state, to: value, at: revision)
        case (.put(let value), nil):
            return changed(state, to: value, at: nil)
        case (.delete, .changed(let revision)):
            return changed(state, to: nil, at: revision)
        case (.delete, nil):
            return changed(state, to: nil, at: nil)
        case (.get, .found(let value, let revision)):
            guard state.value == value else { return nil }
            return revision.map { told(state, $0) } ?? state
        case (.compareAndSet(let condition, let value), .changed(let revision)):
            return met(condition, state).flatMap { changed($0, to: value, at: revision) }
        case (.compareAndSet(let condition, let value), nil):
            return met(condition, state).flatMap { changed($0, to: value, at: nil) }
        case (.compareAndSet(let condition, _), .conditionFailed):
            switch condition {
            case .value(let value): return state.value == value ? nil : state
            case .revision(let revision):
                return state.value != nil && state.isRevisionKnown && state.revision == revision ? nil : state
            }
        case (.get, _), (.put, _), (.delete, _), (.compareAndSet, _):
            return nil
        }
    }

    public func isReadOnly(_ input: Input, _ output: Output) -> Bool {
        switch output {
        case .found, .conditionFailed: true
        case .changed: false
        }
    }

    /// The state in which the condition holds, or nil if it does not.
    private func met(_ condition: Input.Condition, _ state: State) -> State? {
        switch condition {
        case .value(let value): state.value == value ? state : nil
        case .revision(let revision): state.value == nil ? nil : told(state, revision)
        }
    }

    /// An answer names the revision of the last change.
    private func told(_ state: State, _ revision: UInt64) -> State? {
        guard state.isRevisionKnown ? state.revision == revision : state.revision < revision else { return nil }
        return State(value: state.value, revision: revision, isRevisionKnown: true)
    }

    private func changed(_ state: State, to value: Value?, at revision: UInt64?) -> State? {
        // The bound is not raised for a change of unknown revision: then states differ by what matters only.
        guard let revision else { return State(value: value, revision: state.revision, isRevisionKnown: false) }
        guard revision > state.revision else { return nil }
        return State(value: value, revision: revision, isRevisionKnown: true)
    }

    /// A change whose value nobody saw explains nothing but a condition that failed: all else stands without it.
    public func needed(unknown: [Input], known: [(input: Input, output: Output)]) -> [Bool] {
        var seen: Set<Value> = []
        var isAbsenceSeen = false
        var isEverythingNeeded = false
        func see(_ value: Value?) {
            if let value { seen.insert(value) } else { isAbsenceSeen = true }
        }
        func see(_ condition: Input.Condition) {
            switch condition {
            case .value(let value): see(value)
            // Whatever value had this revision.
            case .revision: isEverythingNeeded = true
            }
        }
        for (input, output) in known {
            switch (input, output) {
            case (_, .conditionFailed): isEverythingNeeded = true
            case (.compareAndSet(let condition, _), _): see(condition)
            case (_, .found(let value, _)): see(value)
            case (_, .changed): break
            }
        }
        for case .compareAndSet(let condition, _) in unknown { see(condition) }
        return unknown.map { input in
            switch input {
            case .get: false
            case .put(let value): isEverythingNeeded || seen.contains(value)
            case .delete: isEverythingNeeded || isAbsenceSeen
            case .compareAndSet(_, let value):
                isEverythingNeeded || value.map { seen.contains($0) } ?? isAbsenceSeen
            }
        }
    }
}
