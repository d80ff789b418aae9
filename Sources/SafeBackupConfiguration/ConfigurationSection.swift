import SafeBackupCore

/// One section of a configuration after all files were read: what was assigned to each key in the end.
package struct ConfigurationSection: Sendable, Hashable {
    /// One value that counts. It was checked: it can be read.
    package struct Assigned: Sendable, Hashable {
        package var text: [UInt8]
        package var place: ConfigurationPlace
        /// Of all assignments, in their order.
        var number: Int
    }

    package let kind: ConfigurationEntry.Section
    package let name: String
    /// Of its first heading.
    package let place: ConfigurationPlace
    private var values: [String: [Assigned]] = [:]
    /// Keys that are there with a value that is wrong, which was told: that they are missing is not to be told too.
    private var faulty: Set<String> = []

    init(_ kind: ConfigurationEntry.Section, name: String, place: ConfigurationPlace) {
        self.kind = kind
        self.name = name
        self.place = place
    }

    /// `[source "photos"]`
    package var heading: String { kind.isNamed ? "[\(kind.rawValue) \"\(name)\"]" : "[\(kind.rawValue)]" }

    func assigned(_ entry: ConfigurationEntry) -> [Assigned] { values[entry.name] ?? [] }

    mutating func assign(_ value: Assigned, to entry: ConfigurationEntry) {
        if entry.isList { values[entry.name, default: []].append(value) } else { values[entry.name] = [value] }
    }

    mutating func noteFault(of entry: ConfigurationEntry) { faulty.insert(entry.name) }

    func hasFault(_ entry: ConfigurationEntry) -> Bool { faulty.contains(entry.name) }

    mutating func reset(_ entry: ConfigurationEntry) { values[entry.name] = nil }

    /// The value, else the default.
    package subscript<Value>(key: ConfigurationKey<Value>) -> Value? {
        values[key.entry.name]?.last.flatMap { Self.read($0.text) } ?? key.standard
    }

    /// All values of a list, in their order.
    package func list<Value>(_ key: ConfigurationKey<Value>) -> [(value: Value, place: ConfigurationPlace)] {
        (values[key.entry.name] ?? []).compactMap { assigned in
            Self.read(assigned.text).map { ($0, assigned.place) }
        }
    }

    /// Where the key's value stands, else the heading.
    package func place<Value>(of key: ConfigurationKey<Value>) -> ConfigurationPlace {
        values[key.entry.name]?.last?.place ?? place
    }

    private static func read<Value: ConfigurationValue>(_ text: [UInt8]) -> Value? {
        do throws(ConfigurationFault) {
            return try Value.read(text)
        } catch {
            return nil  // never: only values that were read once are assigned
        }
    }

    /// The patterns of `exclude` and the files of `exclude-from`, in the order in which they were written.
    var excludes: [Configuration.Exclude] {
        let patterns = assigned(ConfigurationKeys.exclude.entry).map { value in
            (
                value.number,
                Configuration.Exclude.pattern(
                    ExcludePattern(bytes: value.text, origin: .file(value.place.file), line: value.place.line),
                    value.place)
            )
        }
        let files = assigned(ConfigurationKeys.excludeFrom.entry).compactMap { value in
            (Self.read(value.text) as ConfigurationPath?).map {
                (value.number, Configuration.Exclude.file($0.bytes, value.place))
            }
        }
        return (patterns + files).sorted { $0.0 < $1.0 }.map(\.1)
    }
}
