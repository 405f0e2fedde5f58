// The state machine of its own that every simulated program may have: banks whose money only moves. What is put in at
// their opening is there at any moment that anybody can see.

import Messages
package import Primitives
package import StateMachines

package enum Bank: StateMachine {
    package static let number = SubMachineNumber(1_024)
    package static let commands: [any MachineCommand<Bank>.Type] = [
        OpenBank.self, Transfer.self, PostDate.self, Settle.self, CallOff.self,
    ]
    package static let queries: [any MachineQuery<Bank>.Type] = [Holdings.self]

    package static let accounts: UInt64 = 6
    package static let opening: Int64 = 100
    package static let alreadyOpen: UInt32 = 1
    package static let tooLittle: UInt32 = 2
    package static let notOpen: UInt32 = 3
    package static let alreadyPosted: UInt32 = 4
    package static let notPosted: UInt32 = 5

    package static func account(_ number: UInt64, of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}\(number)") }
    /// How many transfers there were, and a mark of all that the context said in them.
    package static func book(of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}book") }
    /// What was taken from accounts and is not in others yet.
    package static func float(of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}float") }
    package static func post(_ number: UInt64, of bank: UInt64) -> Bytes { Bytes("{bank \(bank)}post \(number)") }
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
        try context.put(key, Book())
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

/// Takes money from an account now, and puts it into another one later. `bank u64 | number u64 | from u64 | to u64 |
/// amount u64 | milliseconds u64`, and `0 u8` if the bank may move
package struct PostDate: MachineCommand {
    package typealias Machine = Bank
    package static let number: UInt16 = 3
    package var bank: UInt64
    /// No other one's.
    package var number: UInt64
    package var from: UInt64
    package var to: UInt64
    package var amount: UInt64
    package var milliseconds: UInt64
    /// The bank stays where it is: log times of one group say nothing of another's.
    package var stays: Bool
    package var key: Bytes { Bank.book(of: bank) }
    package var readKeys: [Bytes] { [key, Bank.account(from, of: bank), Bank.float(of: bank)] }

    package func apply(in context: inout MachineContext) throws -> Done {
        guard var book = try context.get(key, as: Book.self) else {
            throw MachineFailure(Bank.notOpen, "bank \(bank) is not open")
        }
        let place = Bank.post(number, of: bank)
        guard try context.get(place) == nil else { throw MachineFailure(Bank.alreadyPosted, "\(number) is there") }
        // What is scheduled before it fails must not come.
        let settle = try context.schedule(
            Settle(bank: bank, number: number), after: .milliseconds(Int64(milliseconds)))
        try context.move(Int64(amount), from: Bank.account(from, of: bank), to: Bank.float(of: bank))
        // Now and then it comes back some times before it is done.
        try context.put(
            place,
            Post(
                from: from, to: to, amount: amount, delays: number % 4 == 0 ? 2 : 0,
                due: stays ? context.logTime.rawValue + milliseconds : 0, settle: settle))
        book.posts += 1
        try context.put(key, book)
        return Done()
    }

    package init(
        bank: UInt64, number: UInt64, from: UInt64, to: UInt64, amount: UInt64, milliseconds: UInt64, stays: Bool = true
    ) {
        (self.bank, self.number, self.from, self.to) = (bank, number, from, to)
        (self.amount, self.milliseconds, self.stays) = (amount, milliseconds, stays)
    }
    package func encode(into writer: inout ByteWriter) {
        for number in [bank, number, from, to, amount, milliseconds] { writer.write(number) }
        if !stays { writer.write(0 as UInt8) }
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (bank, number) = (try reader.read(), try reader.read())
        (from, to) = (try reader.read(), try reader.read())
        (amount, milliseconds) = (try reader.read(), try reader.read())
        stays = reader.isAtEnd
        if !stays { _ = try reader.read(UInt8.self) }
    }
}

/// Comes when a post-dated transfer is due. `bank u64 | number u64`
package struct Settle: MachineCommand {
    package typealias Machine = Bank
    package static let number: UInt16 = 4
    package var bank: UInt64
    package var number: UInt64
    package var key: Bytes { Bank.book(of: bank) }
    package var readKeys: [Bytes] { [key, Bank.post(number, of: bank)] }
    package static var bringsDataIn: Bool { false }

    package func apply(in context: inout MachineContext) throws -> Done {
        let place = Bank.post(number, of: bank)
        var book = try context.get(key, as: Book.self) ?? Book()
        // It comes once, unless it was called off, and not before its time.
        if var post = try context.get(place, as: Post.self), context.logTime.rawValue >= post.due,
            try !context.cancel(post.settle)
        {
            if post.delays > 0 {
                post.delays -= 1
                if post.due > 0 { post.due = context.logTime.rawValue + 300 }
                post.settle = try context.schedule(self, after: .milliseconds(300))
                try context.put(place, post)
                return Done()
            }
            try context.move(
                Int64(post.amount), from: Bank.float(of: bank), to: Bank.account(post.to, of: bank))
            try context.delete(place)
            book.posts -= 1
            book.settled += 1
        } else {
            book.wrong += 1
        }
        try context.put(key, book)
        return Done()
    }

    package init(bank: UInt64, number: UInt64) { (self.bank, self.number) = (bank, number) }
    package func encode(into writer: inout ByteWriter) {
        writer.write(bank)
        writer.write(number)
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (bank, number) = (try reader.read(), try reader.read())
    }
}

/// Has a post-dated transfer not come. `bank u64 | number u64`
package struct CallOff: MachineCommand {
    package typealias Machine = Bank
    package static let number: UInt16 = 5
    package var bank: UInt64
    package var number: UInt64
    package var key: Bytes { Bank.book(of: bank) }
    package static var bringsDataIn: Bool { false }

    package func apply(in context: inout MachineContext) throws -> Done {
        let place = Bank.post(number, of: bank)
        guard var book = try context.get(key, as: Book.self), let post = try context.get(place, as: Post.self) else {
            throw MachineFailure(Bank.notPosted, "\(number) is not there")
        }
        try context.move(Int64(post.amount), from: Bank.float(of: bank), to: Bank.account(post.from, of: bank))
        try context.delete(place)
        book.posts -= 1
        if try !context.cancel(post.settle) { book.wrong += 1 }
        try context.put(key, book)
        return Done()
    }

    package init(bank: UInt64, number: UInt64) { (self.bank, self.number) = (bank, number) }
    package func encode(into writer: inout ByteWriter) {
        writer.write(bank)
        writer.write(number)
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (bank, number) = (try reader.read(), try reader.read())
    }
}

extension MachineContext {
    fileprivate mutating func move(_ amount: Int64, from source: Bytes, to target: Bytes) throws {
        let left = (try get(source, as: Amount.self)?.value ?? 0) - amount
        guard left >= 0 else { throw MachineFailure(Bank.tooLittle, "\(source) has too little") }
        try put(source, Amount(left))
        try put(target, Amount((try get(target, as: Amount.self)?.value ?? 0) + amount))
    }
}

/// How much there is in all accounts, and what there was of transfers. `bank u64`
package struct Holdings: MachineQuery {
    package typealias Machine = Bank
    package static let number: UInt16 = 1
    package var bank: UInt64
    package var key: Bytes { Bank.book(of: bank) }
    /// Half of what it reads is left to be found out.
    package var readKeys: [Bytes] { [key] + (0..<Bank.accounts / 2).map { Bank.account($0, of: bank) } }

    /// `total i64 | 0 u8, or 1 u8 and a Book`
    package struct Answer: Message {
        package var total: Int64
        /// Nil: the bank is not open.
        package var book: Book?
        package func encode(into writer: inout ByteWriter) {
            writer.write(UInt64(bitPattern: total))
            writer.write(UInt8(book == nil ? 0 : 1))
            book?.encode(into: &writer)
        }
        package init(total: Int64, book: Book?) { (self.total, self.book) = (total, book) }
        package init(from reader: inout ByteReader) throws(DecodingFailure) {
            total = Int64(bitPattern: try reader.read())
            book = try reader.read(UInt8.self) == 0 ? nil : try Book(from: &reader)
        }
    }

    package func answer(in view: inout MachineView) throws -> Answer {
        var total: Int64 = 0
        for place in (0..<Bank.accounts).map({ Bank.account($0, of: bank) }) + [Bank.float(of: bank)] {
            total += try view.get(place, as: Amount.self)?.value ?? 0
        }
        return Answer(total: total, book: try view.get(key, as: Book.self))
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
    package var transfers: UInt64 = 0
    package var mark: UInt64 = 0
    /// Post-dated transfers that are to come, and those that came.
    package var posts: UInt64 = 0
    package var settled: UInt64 = 0
    /// Commands that came again, too soon, or though they were called off.
    package var wrong: UInt64 = 0

    package init() {}
    package func encode(into writer: inout ByteWriter) {
        for number in [transfers, mark, posts, settled, wrong] { writer.write(number) }
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (transfers, mark) = (try reader.read(), try reader.read())
        (posts, settled, wrong) = (try reader.read(), try reader.read(), try reader.read())
    }
}

/// A post-dated transfer.
package struct Post: Message {
    package var from: UInt64
    package var to: UInt64
    package var amount: UInt64
    /// So often it is put off.
    package var delays: UInt64
    /// In log time; 0: it may be settled in another group, whose time is another.
    package var due: UInt64
    package var settle: ScheduledCommand

    package init(
        from: UInt64, to: UInt64, amount: UInt64, delays: UInt64, due: UInt64, settle: ScheduledCommand
    ) {
        (self.from, self.to, self.amount, self.delays) = (from, to, amount, delays)
        (self.due, self.settle) = (due, settle)
    }
    package func encode(into writer: inout ByteWriter) {
        for number in [from, to, amount, delays, due] { writer.write(number) }
        settle.encode(into: &writer)
    }
    package init(from reader: inout ByteReader) throws(DecodingFailure) {
        (from, to, amount) = (try reader.read(), try reader.read(), try reader.read())
        (delays, due) = (try reader.read(), try reader.read())
        settle = try ScheduledCommand(from: &reader)
    }
}
