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
        checkEncryption(of: section)
        checkLock(of: section)
        if section[ConfigurationKeys.clientKey] != nil && section[ConfigurationKeys.clientCertificate] == nil {
            report(section.place(of: ConfigurationKeys.clientKey), "client-key: give its client-certificate too")
        }
        if section[ConfigurationKeys.onDelete] == .mirror && section[ConfigurationKeys.versions] != .copy {
            report(
                section.place(of: ConfigurationKeys.onDelete),
                "on-delete: mirror moves deleted files to the versions; give 'versions = copy' with it")
        }
    }

    private mutating func checkEncryption(of section: ConfigurationSection) {
        let encryption = section[ConfigurationKeys.encryption]
        let isKMS = encryption == .kms || encryption == .kmsTwice
        if section[ConfigurationKeys.kmsKey] != nil && !isKMS {
            report(section.place(of: ConfigurationKeys.kmsKey), "kms-key: give 'encryption = aws:kms' with it")
        }
        if section[ConfigurationKeys.bucketKey] == true && encryption != .kms {
            report(section.place(of: ConfigurationKeys.bucketKey), "bucket-key: give 'encryption = aws:kms' with it")
        }
        let hasKey = section[ConfigurationKeys.customerKeyFile] != nil
        if hasKey && encryption != .customer {
            report(
                section.place(of: ConfigurationKeys.customerKeyFile),
                "customer-key-file: give 'encryption = customer' with it")
        }
        if !hasKey && encryption == .customer && !section.hasFault(ConfigurationKeys.customerKeyFile.entry) {
            report(
                section.place(of: ConfigurationKeys.encryption),
                "encryption: customer needs the key; give its file with customer-key-file")
        }
    }

    private mutating func checkLock(of section: ConfigurationSection) {
        let (mode, time) = (ConfigurationKeys.objectLockMode, ConfigurationKeys.objectLockTime)
        if section[mode] != nil && section[time] == nil && !section.hasFault(time.entry) {
            report(section.place(of: mode), "object-lock-mode: say for how long, with object-lock-time")
        }
        if section[time] != nil && section[mode] == nil && !section.hasFault(mode.entry) {
            report(section.place(of: time), "object-lock-time: give object-lock-mode with it, governance or compliance")
        }
        let tags = section.list(ConfigurationKeys.tag)
        var known: Set<String> = []
        for (index, tag) in tags.enumerated() {
            if index == 10 { report(tag.place, "tag: an object has at most 10 tags; remove \(tags.count - 10)") }
            if !known.insert(tag.value.name).inserted {
                report(tag.place, "tag: there is one of the name \(tag.value.name) already; keep one of them")
            }
        }
    }

    private func printableText(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
