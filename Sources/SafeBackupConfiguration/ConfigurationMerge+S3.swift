/// What a destination's type asks for, and what it excludes.
extension ConfigurationMerge {
    mutating func checkType(of section: ConfigurationSection) {
        let isBucket = section[ConfigurationKeys.type] == .s3
        if section.hasFault(ConfigurationKeys.type.entry) { return }
        let needed = isBucket ? ConfigurationKeys.url.entry : ConfigurationKeys.destinationPath.entry
        if section.assigned(needed).isEmpty && !section.hasFault(needed) {
            let isMeant = !section.assigned(ConfigurationKeys.url.entry).isEmpty
            report(
                section.place,
                "\(section.heading) has no \(needed.name); add it, as in '\(needed.name) = \(printableText(needed.example))'"
                    + (isMeant && !isBucket ? "; or give 'type = s3' for a bucket" : ""))
        }
        for entry in ConfigurationKeys.foreign(to: section) {
            guard let assigned = section.assigned(entry).last else { continue }
            let why =
                isBucket
                ? entry.name == "path" ? "a bucket is named by url" : "a bucket has no size, and cannot be unmounted"
                : "it is of a bucket, which 'type = s3' says"
            report(assigned.place, "\(entry.name): this has no effect here: \(why); remove it")
        }
        if isBucket { checkKeys(of: section) }
    }

    private mutating func checkKeys(of section: ConfigurationSection) {
        let hasID = section[ConfigurationKeys.accessKeyID] != nil
        let (secret, file) = (
            section[ConfigurationKeys.secretAccessKey], section[ConfigurationKeys.secretAccessKeyFile]
        )
        let hasSecret = secret != nil || file != nil
        if secret != nil && file != nil {
            report(
                section.place(of: ConfigurationKeys.secretAccessKeyFile),
                "secret-access-key-file: secret-access-key is given too; keep one of them")
        }
        if hasID != hasSecret {
            report(
                section.place,
                "\(section.heading) has \(hasID ? "access-key-id without its secret" : "a secret without access-key-id"); "
                    + "give both, or neither")
        }
        if section[ConfigurationKeys.sessionToken] != nil && !hasID {
            report(
                section.place(of: ConfigurationKeys.sessionToken),
                "session-token: it belongs to access-key-id; give both")
        }
        if section[ConfigurationKeys.kmsKey] != nil && section[ConfigurationKeys.encryption] != .kms {
            report(section.place(of: ConfigurationKeys.kmsKey), "kms-key: give 'encryption = aws:kms' with it")
        }
        if section[ConfigurationKeys.clientKey] != nil && section[ConfigurationKeys.clientCertificate] == nil {
            report(section.place(of: ConfigurationKeys.clientKey), "client-key: give its client-certificate too")
        }
        if section[ConfigurationKeys.onDelete] == .mirror && section[ConfigurationKeys.versions] != .copy {
            report(
                section.place(of: ConfigurationKeys.onDelete),
                "on-delete: mirror moves deleted files to the versions; give 'versions = copy' with it")
        }
    }

    private func printableText(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
