/// A part of AWS with names, accounts and features of its own.
package struct AWSPartition: Sendable, Hashable {
    /// Of the hosts' names.
    package let suffix: String
    /// Hosts whose cryptography is validated.
    package let hasFIPS: Bool
    package let hasAcceleration: Bool

    /// By the region's name. See: botocore, data/partitions.json.
    package init(of region: String) {
        let (suffix, hasFIPS, hasAcceleration): (String, Bool, Bool)
        if region.hasPrefix("cn-") {
            (suffix, hasFIPS, hasAcceleration) = ("amazonaws.com.cn", false, false)
        } else if region.hasPrefix("eusc-") {
            (suffix, hasFIPS, hasAcceleration) = ("amazonaws.eu", true, false)
        } else if region.hasPrefix("us-isob-") {
            (suffix, hasFIPS, hasAcceleration) = ("sc2s.sgov.gov", true, false)
        } else if region.hasPrefix("us-isof-") {
            (suffix, hasFIPS, hasAcceleration) = ("csp.hci.ic.gov", true, false)
        } else if region.hasPrefix("us-iso-") {
            (suffix, hasFIPS, hasAcceleration) = ("c2s.ic.gov", true, false)
        } else if region.hasPrefix("eu-isoe-") {
            (suffix, hasFIPS, hasAcceleration) = ("cloud.adc-e.uk", true, false)
        } else {
            (suffix, hasFIPS, hasAcceleration) = ("amazonaws.com", true, !region.hasPrefix("us-gov-"))
        }
        self.suffix = suffix
        self.hasFIPS = hasFIPS
        self.hasAcceleration = hasAcceleration
    }
}
