// The program with a state machine of its own that every simulation may have: banks whose money only moves. What is put
// in at their opening is there at any moment that anybody can see.

import Messages
package import Primitives
package import StateMachines

package enum Bank: StateMachine {
    package static let number = SubMachineNumber(1_024)
    package static let commands: [any MachineCommand<Bank>.Type] = [OpenBank.self, Transfer.self]
    package static let queries: [any MachineQuery<Bank>.Type] = [Holdings.self]

    package static let accounts: UInt64 = 6
    package static let opening: Int64 = 100
    package static let alreadyOpen: UInt32 = 1
    package static let tooLittle: UInt32 = 2
    package static let notOpen: UInt32 = 3

    package static func account(_ number: UInt64, of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}\(number)") }
    /// How many transfers there were, and a mark of all that the context said in them.
    package static func book(of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}book") }
}

/// `bank u64`
package struct OpenBank: MachineCommand {
    package typealias Machine = Bank
    package static let number: UInt16 = 1
    package var bank: UInt64
    package var key: Bytes { Bank.book(of: bank) }

    package func apply(in context: inout MachineContext) throws -> Done {
        guard try context.get(key) == nil else { throw MachineFailure(Bank.alreadyOpen, "bank \(bank) is open") }
        for number in 0..<Bank.accounts {
            try context.put(Bank.account(number, of: bank), Amount(Bank.opening))
        }
        try context.put(key, Book(transfers: 0, mark: 0))
        return Done()
    }

    package init(bank: UInt64) { self.bank = bank }
    package func encode(into writer: inout ByteWriter) { writer.write(bank) }
    package init(from reader: inout ByteReader) throws(DecodingFailure) { bank = try reader.read() }
}

/// Answered by how many transfers there were with it. `bank u64 | from u64 | to u64 | amount u64`
package struct Transfer: MachineCommand {
    package typealias Machine = Bank
    package typealias Answer = Amount
    package static let number: UInt16 = 2
    package var bank: UInt64
    package var from: UInt64
    package var to: UInt64
    package var amount: UInt64
    package var key: Bytes { Bank.book(of: bank) }
    /// The account that gets it is left to be found out.
    package var readKeys: [Bytes] { [key, Bank.account(from, of: bank)] }

    package func apply(in context: inout MachineContext) throws -> Amount {
        guard var book = try context.get(key, as: Book.self) else {
            throw MachineFailure(Bank.notOpen, "bank \(bank) is not open")
        }
        // What is written before it fails must be gone.
        let target = Bank.account(to, of: bank)
        let source = Bank.account(from, of: bank)
        try context.put(target, Amount((try context.get(target, as: Amount.self)?.value ?? 0) + Int64(amount)))
        let left = (try context.get(source, as: Amount.self)?.value ?? 0) - Int64(amount)
        guard left >= 0 else { throw MachineFailure(Bank.tooLittle, "account \(from) has too little") }
        try context.put(source, Amount(left))
        book.transfers += 1
        let chance = context.random.next()
        book.mark = mix(
            book.mark ^ mix(context.index.rawValue) ^ mix(context.logTime.rawValue &+ 1) ^ context.session.rawValue
                ^ chance ^ mix(context.revision.rawValue &+ 2))
        try context.put(key, book)
        return Amount(Int64(book.transfers))
    }

    package init(bank: UInt64, from: UInt64, to: UInt64, amount: UInt64) {
        (self.bank, self.from, self.to, self.amount) = (bank, from, to, amount)
    }
    package func encode(into writer: inout ByteWriter) {
        for number in [bank, from, to, amount] { writer.write(number) }
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        bank = try reader.read()
        from = try reader.read()
        to = try reader.read()
        amount = try reader.read()
    }
}

/// How much there is in all accounts, and how many transfers there were. `bank u64`
package struct Holdings: MachineQuery {
    package typealias Machine = Bank
    package static let number: UInt16 = 1
    package var bank: UInt64
    package var key: Bytes { Bank.book(of: bank) }
    /// Half of what it reads is left to be found out.
    package var readKeys: [Bytes] { [key] + (0..<Bank.accounts / 2).map { Bank.account($0, of: bank) } }

    package struct Answer: Message {
        package var total: Int64
        /// Nil: the bank is not open.
        package var transfers: UInt64?
        package func encode(into writer: inout ByteWriter) {
            writer.write(UInt64(bitPattern: total))
            writer.write(transfers ?? .max)
        }
        package init(total: Int64, transfers: UInt64?) { (self.total, self.transfers) = (total, transfers) }
        package init(from reader: inout ByteReader) throws(DecodingFailure) {
            total = Int64(bitPattern: try reader.read())
            let transfers = try reader.read(UInt64.self)
            self.transfers = transfers == .max ? nil : transfers
        }
    }

    package func answer(in view: inout MachineView) throws -> Answer {
        var total: Int64 = 0
        for number in 0..<Bank.accounts {
            total += try view.get(Bank.account(number, of: bank), as: Amount.self)?.value ?? 0
        }
        return Answer(total: total, transfers: try view.get(key, as: Book.self)?.transfers)
    }

    package init(bank: UInt64) { self.bank = bank }
    package func encode(into writer: inout ByteWriter) { writer.write(bank) }
    package init(from reader: inout ByteReader) throws(DecodingFailure) { bank = try reader.read() }
}

package struct Amount: Message {
    package var value: Int64
    package init(_ value: Int64) { self.value = value }
    package func encode(into writer: inout ByteWriter) { writer.write(UInt64(bitPattern: value)) }
    package init(from reader: inout ByteReader) throws(DecodingFailure) { value = Int64(bitPattern: try reader.read()) }
}

package struct Book: Message {
    package var transfers: UInt64
    package var mark: UInt64
    package init(transfers: UInt64, mark: UInt64) { (self.transfers, self.mark) = (transfers, mark) }
    package func encode(into writer: inout ByteWriter) {
        writer.write(transfers)
        writer.write(mark)
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        transfers = try reader.read()
        mark = try reader.read()
    }
}

/// Opens banks, moves money, and counts.
final class BankWorkload: SimulatedWorkload {
    let machines: StateMachineRegistry
    private static let banks = 3
    /// By bank: transfers that were sent, and those that were acknowledged.
    private var begun: [UInt64] = Array(repeating: 0, count: banks)
    private var done: [UInt64] = Array(repeating: 0, count: banks)
    /// Somebody opened it, and somebody knows that it is open.
    private var isOpened = Array(repeating: false, count: banks)
    private var isOpen = Array(repeating: false, count: banks)

    init() {
        do throws(RegistrationFailure) { machines = try StateMachineRegistry([Bank.self]) } catch {
            preconditionFailure("\(error)")
        }
    }

    func next(random: inout SeededRandom) -> SimulatedRequest {
        let bank = Int(random.below(UInt64(Self.banks)))
        let dice = random.below(100)
        if !isOpen[bank] || dice < 2 { return open(bank) }
        guard dice < 70 else {
            switch random.below(4) {
            case 0: return holdings(bank, .linearizableAnywhere)
            case 1: return holdings(bank, .lease)
            case 2: return holdings(bank, .stale, bound: UInt32(random.below(2_000)))
            default: return holdings(bank, .linearizable)
            }
        }
        return transfer(
            bank, from: random.below(Bank.accounts), to: random.below(Bank.accounts),
            amount: random.below(4) == 0 ? random.below(1_000) : random.below(40))
    }

    func finalRequests() -> [SimulatedRequest] { (0..<Self.banks).map { holdings($0, .linearizable) } }

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

    private func holdings(_ bank: Int, _ consistency: Consistency, bound: UInt32 = 0) -> SimulatedRequest {
        let (doneBefore, wasOpen) = (done[bank], isOpen[bank])
        let isNew = consistency != .stale
        return SimulatedRequest(Holdings(bank: UInt64(bank)), consistency, bound: bound) { [unowned self] outcome in
            guard case .answer(let found) = outcome else {
                if case .failure(let failure) = outcome { return "\(failure)" }
                return nil
            }
            guard let transfers = found.transfers else {
                if found.total != 0 { return "\(found.total) in a bank that is not open" }
                return wasOpen && isNew ? "it was open before" : nil
            }
            guard found.total == Int64(Bank.accounts) * Bank.opening else { return "\(found.total) in all accounts" }
            guard transfers <= begun[bank], !isNew || transfers >= doneBefore else {
                return "\(transfers) transfers; \(doneBefore) were done before, and \(begun[bank]) begun"
            }
            return nil
        }
    }
}
