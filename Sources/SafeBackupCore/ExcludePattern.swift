/// One pattern of the exclude rules, and where a person wrote it.
package struct ExcludePattern: Sendable, Hashable {
    package enum Origin: Sendable, Hashable {
        /// `--exclude` on the command line.
        case option
        /// The file at this path.
        case file([UInt8])
    }

    /// As it was written, in the syntax of gitignore(5); no path, and any bytes.
    package var bytes: [UInt8]
    package var origin: Origin
    /// The line of the file, or which `--exclude` it is; from 1.
    package var line: Int

    package init(bytes: [UInt8], origin: Origin = .option, line: Int) {
        self.bytes = bytes
        self.origin = origin
        self.line = line
    }

    /// Where it was written, as the first field of `git check-ignore --verbose`: `--exclude`, or the file.
    package var source: String {
        switch origin {
        case .option: "--exclude"
        case .file(let path): printable(path)
        }
    }

    /// For a sentence: `--exclude 2`, or `/etc/rules:7`.
    package var place: String {
        switch origin {
        case .option: "--exclude \(line)"
        case .file(let path): "\(printable(path)):\(line)"
        }
    }
}
