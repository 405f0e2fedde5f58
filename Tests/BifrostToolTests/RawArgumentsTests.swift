import BifrostTool
import Primitives
import Testing

@Suite struct RawArgumentsTests {
    @Test func anyBytesComeBackFromTheirTexts() {
        var random = SeededRandom(seed: 1)
        let pieces: [[UInt8]] = [
            Array("a".utf8), Array("é".utf8), Array("€".utf8), Array("😀".utf8), [0xff], [0x80], [0xc3], [0xe2, 0x82],
            [0xf0, 0x9f, 0x98], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xc0, 0x80],
            // Characters of the plane that stands for bytes, and the last before them.
            Array("\u{10ff80}".utf8), Array("\u{10ffff}".utf8), Array("\u{10ff7f}".utf8), Array("-".utf8),
        ]
        var texts: Set<String> = []
        var all: Set<[UInt8]> = []
        for _ in 0..<5_000 {
            let bytes = (0..<random.below(6)).flatMap { _ in pieces[Int(random.below(UInt64(pieces.count)))] }
            let text = RawArguments.text(of: bytes)
            #expect(RawArguments.bytes(of: text).array == bytes)
            all.insert(bytes)
            texts.insert(text.unicodeScalars.map { String($0.value) }.joined(separator: " "))
        }
        #expect(texts.count == all.count)
    }

    @Test func whatStandsBehindTwoDashesIsMeantAsItIs() {
        for words in [["put", "k", "--", "-"], ["put", "--", "k", "-"], ["--", "-"]] {
            #expect(RawArguments.endLiterally(words))
        }
        for words in [["put", "k", "-"], ["put", "k", "-", "--"], [], ["--"]] {
            #expect(!RawArguments.endLiterally(words))
        }
    }

    @Test func whatIsTextStaysAsItIs() {
        for text in ["", "greeting", "--json", "grün", "e\u{301}", "日本"] {
            #expect(Array(RawArguments.text(of: Array(text.utf8)).utf8) == Array(text.utf8))
        }
    }
}
