// The demo's proof is worth what its comparison is: each kind of difference is seen and named.

import BifrostTool
import Testing

extension IntegrationTests {
    @Suite struct DemoProofTests {
        @Test(arguments: [
            ("a\t1\nb\t2\n", "a\t1\n", "line 2 is missing: 'b\\u{9}2'"),
            ("a\t1\nb\t2\n", "b\t2\n", "line 1 is missing: 'a\\u{9}1'"),
            ("b\t2\n", "a\t1\nb\t2\n", "line 1 should not be there: 'a\\u{9}1'"),
            ("a\t1\n", "a\t1\nb\t2\n", "line 2 should not be there: 'b\\u{9}2'"),
            ("a\t1\nb\t2\n", "a\t1\nb\t3\n", "line 2 has another value: expected 'b\\u{9}2', found 'b\\u{9}3'"),
            ("a\t1\n", "", "line 1 is missing: 'a\\u{9}1'"),
            ("a\t1\n", "a\t1", "the last line break is missing"),
        ])
        func theFirstRecordThatDiffersIsNamed(expected: String, found: String, words: String) {
            #expect(DemoInput.firstDifference(expected: Array(expected.utf8), found: Array(found.utf8), .tsv) == words)
        }

        @Test func whatIsEqualHasNoDifference() {
            #expect(DemoInput.firstDifference(expected: Array("a;1\n".utf8), found: Array("a;1\n".utf8), .ucd) == nil)
        }

        /// FIPS 180-4's examples, and the lengths around a block's end as `sha256sum` has them.
        @Test(arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
            (String(repeating: "a", count: 55), "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"),
            (String(repeating: "a", count: 64), "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"),
            (
                String(repeating: "a", count: 1_000_000),
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ),
        ])
        func digestsAreThoseOfTheStandard(text: String, digest: String) {
            #expect(SHA256.hexadecimalDigest(of: Array(text.utf8)) == digest)
        }
    }
}
