/// Matching of one pattern against one name, exactly as git's `wildmatch` does it: `*` and `?` stop at a slash when
/// `isPath` is set, `**` between slashes does not, `[...]` knows ranges, negation and POSIX classes.
///
/// A port of git's wildmatch.c (by Wayne Davison, from rsync), because gitignore's meaning is what that code does.
struct Wildcard {
    private enum Outcome {
        case match
        case noMatch
        /// No later start of any star can match: ends the search early, so that it stays polynomial.
        case abortAll
        /// Only a later start of an enclosing `**` can match.
        case abortToStarStar
    }

    private let pattern: UnsafeBufferPointer<UInt8>
    private let text: UnsafeBufferPointer<UInt8>
    private let isPath: Bool

    static func matches(_ pattern: ArraySlice<UInt8>, _ text: ArraySlice<UInt8>, isPath: Bool) -> Bool {
        pattern.withUnsafeBufferPointer { pattern in
            text.withUnsafeBufferPointer { text in
                Wildcard(pattern: pattern, text: text, isPath: isPath).match(0, 0) == .match
            }
        }
    }

    /// The byte there, or NUL at and after the end, as in C; neither patterns nor names hold a NUL.
    private func pattern(_ index: Int) -> UInt8 { index < pattern.count ? pattern[index] : 0 }
    private func text(_ index: Int) -> UInt8 { index < text.count ? text[index] : 0 }

    private func match(_ patternStart: Int, _ textStart: Int) -> Outcome {
        var (p, t) = (patternStart, textStart)
        while pattern(p) != 0 {
            let byte = text(t)
            if byte == 0 && pattern(p) != star { return .abortAll }
            switch pattern(p) {
            case backslash:
                p += 1
                if byte != pattern(p) { return .noMatch }
            case question:
                if isPath && byte == slash { return .noMatch }
            case star:
                switch matchStar(&p, &t, patternStart) {
                case nil: break
                case let outcome?: return outcome
                }
            case bracket:
                guard let isMember = matchSet(&p, byte) else { return .abortAll }
                if !isMember || (isPath && byte == slash) { return .noMatch }
            default:
                if byte != pattern(p) { return .noMatch }
            }
            p += 1
            t += 1
        }
        return t < text.count ? .noMatch : .match
    }

    /// At a star. `nil`: one star swallowed a whole component, go on after the slash at `p` and `t`.
    private func matchStar(_ p: inout Int, _ t: inout Int, _ patternStart: Int) -> Outcome? {
        var crossesSlash = !isPath
        let first = p
        p += 1
        if pattern(p) == star {
            while pattern(p) == star { p += 1 }
            let startsComponent = first == patternStart || pattern(first - 1) == slash
            let endsComponent =
                pattern(p) == 0 || pattern(p) == slash || (pattern(p) == backslash && pattern(p + 1) == slash)
            if isPath && startsComponent && endsComponent {
                // `**/` may also stand for nothing.
                if pattern(p) == slash && match(p + 1, t) == .match { return .match }
                crossesSlash = true
            }
        }
        if pattern(p) == 0 {
            if !crossesSlash && text[t...].contains(slash) { return .abortToStarStar }
            return .match
        }
        if !crossesSlash && pattern(p) == slash {
            guard let next = text[t...].firstIndex(of: slash) else { return .abortAll }
            t = next
            return nil
        }
        while text(t) != 0 {
            if !Self.isSpecial(pattern(p)) {
                // The star is followed by a plain byte: go to where that is.
                while text(t) != 0 && text(t) != pattern(p) && (crossesSlash || text(t) != slash) { t += 1 }
                if text(t) != pattern(p) { return crossesSlash ? .abortAll : .abortToStarStar }
            }
            switch match(p, t) {
            case .noMatch:
                if !crossesSlash && text(t) == slash { return .abortToStarStar }
            case .abortToStarStar where crossesSlash: break
            case let outcome: return outcome
            }
            t += 1
        }
        return .abortAll
    }

    /// At a `[`; afterwards `p` is at its `]`. `nil` if the set is not closed or names an unknown class.
    private func matchSet(_ p: inout Int, _ byte: UInt8) -> Bool? {
        p += 1
        var current = pattern(p)
        let isNegated = current == UInt8(ascii: "!") || current == UInt8(ascii: "^")
        if isNegated {
            p += 1
            current = pattern(p)
        }
        var isMember = false
        var previous: UInt8 = 0
        repeat {
            if current == 0 { return nil }
            if current == backslash {
                p += 1
                current = pattern(p)
                if current == 0 { return nil }
                if byte == current { isMember = true }
            } else if current == hyphen && previous != 0 && pattern(p + 1) != 0 && pattern(p + 1) != closing {
                p += 1
                current = pattern(p)
                if current == backslash {
                    p += 1
                    current = pattern(p)
                    if current == 0 { return nil }
                }
                if byte <= current && byte >= previous { isMember = true }
                current = 0
            } else if current == bracket && pattern(p + 1) == colon {
                let nameStart = p + 2
                var end = nameStart
                while pattern(end) != 0 && pattern(end) != closing { end += 1 }
                if pattern(end) == 0 { return nil }
                if end - nameStart < 1 || pattern(end - 1) != colon {
                    // No `:]`: an ordinary member.
                    if byte == bracket { isMember = true }
                } else {
                    let name = pattern[nameStart..<(end - 1)]
                    guard let contains = Self.classContains(name, byte) else { return nil }
                    if contains { isMember = true }
                    p = end
                    current = 0
                }
            } else if byte == current {
                isMember = true
            }
            previous = current
            p += 1
            current = pattern(p)
        } while current != closing
        return isMember != isNegated
    }

    /// `nil` for a class that POSIX does not know. ASCII only, as in git.
    private static func classContains(_ name: Slice<UnsafeBufferPointer<UInt8>>, _ byte: UInt8) -> Bool? {
        let isLower = byte >= 0x61 && byte <= 0x7A
        let isUpper = byte >= 0x41 && byte <= 0x5A
        let isDigit = byte >= 0x30 && byte <= 0x39
        let isGraph = byte > 0x20 && byte < 0x7F
        switch String(decoding: name, as: UTF8.self) {
        case "alnum": return isLower || isUpper || isDigit
        case "alpha": return isLower || isUpper
        case "blank": return byte == 0x20 || byte == 0x09
        case "cntrl": return byte < 0x20 || byte == 0x7F
        case "digit": return isDigit
        case "graph": return isGraph
        case "lower": return isLower
        case "print": return isGraph || byte == 0x20
        case "punct": return isGraph && !isLower && !isUpper && !isDigit
        case "space": return byte == 0x20 || (byte >= 0x09 && byte <= 0x0D)
        case "upper": return isUpper
        case "xdigit": return isDigit || (byte >= 0x61 && byte <= 0x66) || (byte >= 0x41 && byte <= 0x46)
        default: return nil
        }
    }

    /// Whether the byte means more than itself in a pattern.
    static func isSpecial(_ byte: UInt8) -> Bool {
        byte == star || byte == question || byte == bracket || byte == backslash
    }

    /// Why a pattern can never match, or `nil`: what git silently ignores is a mistake that a person wants to know.
    static func fault(in pattern: ArraySlice<UInt8>) -> String? {
        var p = pattern.startIndex
        while p < pattern.endIndex {
            switch pattern[p] {
            case backslash:
                if p + 1 == pattern.endIndex { return "ends in a backslash that escapes nothing" }
                p += 1
            case bracket:
                let rest = pattern[p...]
                // The set is closed and its classes are known if it gives an answer for any byte.
                let end: Int? = rest.withUnsafeBufferPointer { buffer in
                    var index = 0
                    let set = Wildcard(pattern: buffer, text: UnsafeBufferPointer(start: nil, count: 0), isPath: true)
                    return set.matchSet(&index, 0x61) == nil ? nil : index
                }
                guard let end else { return "has a '[' without its ']', or an unknown class in it" }
                p += end
            default: break
            }
            p += 1
        }
        return nil
    }
}

private let star = UInt8(ascii: "*")
private let question = UInt8(ascii: "?")
private let bracket = UInt8(ascii: "[")
private let closing = UInt8(ascii: "]")
private let backslash = UInt8(ascii: "\\")
private let hyphen = UInt8(ascii: "-")
private let colon = UInt8(ascii: ":")
private let slash = UInt8(ascii: "/")
