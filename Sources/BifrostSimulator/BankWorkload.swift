// The program that every simulation may have: it uses the machine of the banks, and knows what must be true of them.

import Messages
import Primitives
import StateMachines

/// Opens banks, moves money, and counts.
final class BankWorkload: SimulatedWorkload {
    let machines: StateMachineRegistry
    static let banks = 3
    /// By bank: transfers that were sent, and those that were acknowledged.
    private var begun: [UInt64] = Array(repeating: 0, count: banks)
    private var done: [UInt64] = Array(repeating: 0, count: banks)
    /// Somebody opened it, and somebody knows that it is open.
    private var isOpened = Array(repeating: false, count: banks)
    private var isOpen = Array(repeating: false, count: banks)
    /// Post-dated transfers: by bank, the numbers of those that may be there.
    private var posts: [[UInt64]] = Array(repeating: [], count: banks)
    private var lastPost: UInt64 = 0
    /// At the end: none is known to be still to come.
    private var isSettled = Array(repeating: false, count: banks)
    private let postDates: Bool
    private let delayMillisecondsMax: UInt64
    private let slotsMove: Bool
    /// Of all banks, as far as somebody looked.
    private(set) var settled: UInt64 = 0

    /// - Parameters:
    ///   - postDates: some transfers are for later. Clusters below feature level 8 don't carry them out.
    ///   - delayMillisecondsMax: by which they are later, at most.
    ///   - slotsMove: banks go from group to group.
    init(postDates: Bool, delayMillisecondsMax: UInt64, slotsMove: Bool) {
        self.postDates = postDates
        self.slotsMove = slotsMove
        self.delayMillisecondsMax = delayMillisecondsMax
        do throws(RegistrationFailure) { machines = try StateMachineRegistry([Bank.self]) } catch {
            preconditionFailure("\(error)")
        }
    }

    func next(random: inout SeededRandom) -> SimulatedRequest {
        let bank = Int(random.below(UInt64(Self.banks)))
        let dice = random.below(100)
        if !isOpen[bank] || dice < 2 { return open(bank) }
        guard dice < 70 else {
            switch random.below(5) {
            case 0: return holdings(bank, .linearizableAnywhere)
            case 1: return holdings(bank, .lease)
            case 3: return holdings(bank, .session)
            case 2: return holdings(bank, .stale, bound: UInt32(random.below(2_000)))
            default: return holdings(bank, .linearizable)
            }
        }
        if postDates, random.below(4) == 0 {
            guard let post = posts[bank].last, random.below(3) == 0 else {
                return postDate(bank, &random)
            }
            return callOff(bank, post)
        }
        return transfer(
            bank, from: random.below(Bank.accounts), to: random.below(Bank.accounts),
            amount: random.below(4) == 0 ? random.below(1_000) : random.below(40))
    }

    func finalRequests() -> [SimulatedRequest] { (0..<Self.banks).map { holdings($0, .linearizable) } }

    func unsettledRequests() -> [SimulatedRequest] {
        (0..<Self.banks).filter { !isSettled[$0] }.map { holdings($0, .linearizable, settles: true) }
    }

    private func postDate(_ bank: Int, _ random: inout SeededRandom) -> SimulatedRequest {
        lastPost += 1
        let number = lastPost
        posts[bank].append(number)
        return SimulatedRequest(
            PostDate(
                bank: UInt64(bank), number: number, from: random.below(Bank.accounts), to: random.below(Bank.accounts),
                amount: random.below(40),
                milliseconds: 1 + random.below(random.below(2) == 0 ? 1_000 : delayMillisecondsMax),
                stays: !slotsMove)
        ) { outcome in
            // It may have been sent, and done, twice where there is no session.
            guard case .failure(let failure) = outcome, failure.code != Bank.tooLittle,
                failure.code != Bank.alreadyPosted
            else { return nil }
            return "\(failure)"
        }
    }

    private func callOff(_ bank: Int, _ number: UInt64) -> SimulatedRequest {
        posts[bank].removeAll { $0 == number }
        return SimulatedRequest(CallOff(bank: UInt64(bank), number: number)) { outcome in
            guard case .failure(let failure) = outcome, failure.code != Bank.notPosted else { return nil }
            return "\(failure)"
        }
    }

    private func open(_ bank: Int) -> SimulatedRequest {
        SimulatedRequest(OpenBank(bank: UInt64(bank))) { [unowned self] outcome in
            switch outcome {
            case .answer:
                if isOpened[bank] { return "it was opened before" }
                isOpened[bank] = true
                isOpen[bank] = true
            case .failure(let failure):
                guard failure.code == Bank.alreadyOpen else { return "\(failure)" }
                isOpen[bank] = true
            case .notDone, .unknown: break
            }
            return nil
        }
    }

    private func transfer(_ bank: Int, from: UInt64, to: UInt64, amount: UInt64) -> SimulatedRequest {
        begun[bank] += 1
        let doneBefore = done[bank]
        return SimulatedRequest(
            Transfer(bank: UInt64(bank), from: from, to: to, amount: amount)
        ) { [unowned self] outcome in
            switch outcome {
            case .answer(let number):
                done[bank] += 1
                guard number.value > Int64(doneBefore), number.value <= Int64(begun[bank]) else {
                    return "transfer \(number.value), \(doneBefore) were done before it began, and \(begun[bank]) begun"
                }
            case .failure(let failure):
                if failure.code != Bank.tooLittle { return "\(failure)" }
            case .notDone, .unknown: break
            }
            return nil
        }
    }

    /// - Parameter settles: nothing else is under way any more.
    private func holdings(
        _ bank: Int, _ consistency: Consistency, bound: UInt32 = 0, settles: Bool = false
    ) -> SimulatedRequest {
        let (doneBefore, wasOpen) = (done[bank], isOpen[bank])
        let isNew = consistency != .stale && consistency != .session
        return SimulatedRequest(Holdings(bank: UInt64(bank)), consistency, bound: bound) { [unowned self] outcome in
            guard case .answer(let found) = outcome else {
                if case .failure(let failure) = outcome { return "\(failure)" }
                return nil
            }
            if settles { isSettled[bank] = found.book?.posts ?? 0 == 0 }
            guard let book = found.book else {
                if found.total != 0 { return "\(found.total) in a bank that is not open" }
                return wasOpen && isNew ? "it was open before" : nil
            }
            guard book.wrong == 0 else { return "\(book.wrong) scheduled commands came that should not have come" }
            settled = max(settled, book.settled)
            let transfers = book.transfers
            guard found.total == Int64(Bank.accounts) * Bank.opening else { return "\(found.total) in all accounts" }
            guard transfers <= begun[bank], !isNew || transfers >= doneBefore else {
                return "\(transfers) transfers; \(doneBefore) were done before, and \(begun[bank]) begun"
            }
            return nil
        }
    }
}
