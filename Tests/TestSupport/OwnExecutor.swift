// Tests that measure time, or wait for what others do within a time, on threads that other tests can't take from them.

import Dispatch
package import Testing

/// Runs a test's tasks on a queue of its own.
///
/// The threads for tasks are as many as the machine has cores, and every test that computes without awaiting holds one:
/// on two cores a test that only wants to look again after two milliseconds is resumed behind all the others, up to a
/// minute later, when its peers have long given it up. A task that the test starts itself takes `OwnExecutor.current`,
/// or it runs on the shared threads again.
package final class OwnExecutor: TaskExecutor {
    @TaskLocal package static var current: OwnExecutor?

    private let queue = DispatchQueue(label: "bifrost.test")

    init() {}

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }

    /// In place of `Task.sleep`, whose alarm needs one of the shared threads.
    package static func pause(milliseconds: Int) async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(milliseconds)) { continuation.resume() }
        }
    }
}

/// The trait `.ownExecutor` of a suite or a test.
package struct OwnExecutorTrait: SuiteTrait, TestTrait, TestScoping {
    package let isRecursive = true

    package func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        // For the suite itself there is nothing to run.
        guard testCase != nil else { return try await function() }
        let executor = OwnExecutor()
        try await OwnExecutor.$current.withValue(executor) {
            try await withTaskExecutorPreference(executor) { try await function() }
        }
    }
}

extension Trait where Self == OwnExecutorTrait {
    package static var ownExecutor: Self { Self() }
}
