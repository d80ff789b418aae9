// swift-tools-version:6.2
import PackageDescription

/// The language settings of every Swift target; a warning is an error.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"), .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    // The seam that lets tests fail the Nth system call or die at a step; compiled out of the release build.
    .define("SAFEBACKUP_FAULTS", .when(configuration: .debug)),
]

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
    name: "safebackup",
    products: [
        .executable(name: "safebackup", targets: ["SafeBackupCLI"]),
        .library(name: "SafeBackup", targets: ["SafeBackup"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        .target(name: "CSafeBackupLinux", cSettings: [.define("_GNU_SOURCE")]),
        .systemLibrary(name: "CSafeBackupSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CSafeBackupOpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .target(name: "CSafeBackupChecksums"),
        .systemLibrary(name: "CSafeBackupCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .target(name: "SafeBackupCore", swiftSettings: strict),
        .target(
            name: "SafeBackupSystem",
            dependencies: ["CSafeBackupLinux", "CSafeBackupOpenSSL", "SafeBackupCore", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupWatch", dependencies: ["SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupState",
            dependencies: ["CSafeBackupSQLite", "SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupCapacity", dependencies: ["SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupLocal", dependencies: ["SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupS3",
            dependencies: [
                "CSafeBackupChecksums", "CSafeBackupCurl", "CSafeBackupOpenSSL", "SafeBackupCore", "SafeBackupSystem",
                system,
            ],
            swiftSettings: strict),
        .target(
            name: "SafeBackup",
            dependencies: [
                "SafeBackupCapacity", "SafeBackupCore", "SafeBackupLocal", "SafeBackupS3", "SafeBackupSystem", system,
            ],
            swiftSettings: strict),
        // How a program uses it; run by the end-to-end tests.
        .executableTarget(
            name: "ExampleLocalSession", dependencies: ["SafeBackup"], path: "Sources/Examples/LocalSession",
            swiftSettings: strict),
        .executableTarget(
            name: "ExampleS3Session", dependencies: ["SafeBackup"], path: "Sources/Examples/S3Session",
            swiftSettings: strict),
        .executableTarget(
            name: "ExampleCleanDirectory", dependencies: ["SafeBackup"], path: "Sources/Examples/CleanDirectory",
            swiftSettings: strict),
        .target(
            name: "SafeBackupConfiguration",
            dependencies: ["SafeBackupCore", "SafeBackupSystem", "SafeBackupWatch", system],
            swiftSettings: strict),
        .target(
            name: "SafeBackupAgent",
            dependencies: [
                "SafeBackupConfiguration", "SafeBackupCore", "SafeBackupSystem", "SafeBackupWatch", "SafeBackupState",
                "SafeBackupLocal", "SafeBackupCapacity", "SafeBackupS3", system, logging,
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "SafeBackupCLI",
            dependencies: [
                "SafeBackupAgent", "SafeBackupCapacity", "SafeBackupConfiguration", "SafeBackupCore",
                "SafeBackupSystem", "SafeBackupWatch", logging, system,
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict),
        .testTarget(name: "SafeBackupCoreTests", dependencies: ["SafeBackupCore"], swiftSettings: strict),
        .testTarget(
            name: "SafeBackupSystemTests", dependencies: ["SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupWatchTests",
            dependencies: ["SafeBackupCore", "SafeBackupSystem", "SafeBackupWatch", system],
            // Read where they lie, by the tests of the scripts.
            exclude: ["Scripts"], swiftSettings: strict),
        .testTarget(
            name: "SafeBackupConfigurationTests",
            dependencies: ["SafeBackupConfiguration", "SafeBackupCore", "SafeBackupSystem", "SafeBackupWatch", system],
            swiftSettings: strict),
        // An SQLite VFS that fails its Nth write or sync.
        .target(name: "CFailingVFS", dependencies: ["CSafeBackupSQLite"], path: "Tests/CFailingVFS"),
        .testTarget(
            name: "SafeBackupStateTests",
            dependencies: [
                "CFailingVFS", "CSafeBackupSQLite", "SafeBackupCore", "SafeBackupSystem", "SafeBackupState", system,
            ],
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupCapacityTests",
            dependencies: ["SafeBackupCapacity", "SafeBackupCore", "SafeBackupSystem", system],
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupLocalTests",
            dependencies: ["SafeBackupCore", "SafeBackupSystem", "SafeBackupLocal", system],
            swiftSettings: strict),
        // A strict S3 server in the test's process.
        .target(
            name: "SafeBackupFakeS3",
            dependencies: ["CSafeBackupLinux", "CSafeBackupOpenSSL", "SafeBackupSystem", system], path: "Tests/FakeS3",
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupFakeS3Tests", dependencies: ["SafeBackupFakeS3"], path: "Tests/FakeS3Tests",
            // Run, not compiled.
            exclude: ["client.py"], swiftSettings: strict),
        .testTarget(
            name: "SafeBackupS3Tests",
            dependencies: [
                "SafeBackupCore", "SafeBackupFakeS3", "SafeBackupS3", "SafeBackupState", "SafeBackupSystem", system,
            ],
            // Read where they lie, as data.
            exclude: ["Vectors"], swiftSettings: strict),
        .testTarget(
            name: "SafeBackupTests",
            dependencies: [
                "SafeBackup", "SafeBackupCore", "SafeBackupFakeS3", "SafeBackupLocal", "SafeBackupS3",
                "SafeBackupSystem",
            ],
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupAgentTests",
            dependencies: [
                "SafeBackupAgent", "SafeBackupCapacity", "SafeBackupCore", "SafeBackupState", "SafeBackupSystem",
                "SafeBackupWatch", "SafeBackupCLI", system, logging,
            ],
            swiftSettings: strict),
        .testTarget(
            name: "SafeBackupEndToEndTests",
            dependencies: [
                "CSafeBackupSQLite", "ExampleCleanDirectory", "ExampleLocalSession", "ExampleS3Session",
                "SafeBackupCLI",
                "SafeBackupCore", "SafeBackupFakeS3", "SafeBackupSystem", system,
            ],
            swiftSettings: strict),
    ]
)
