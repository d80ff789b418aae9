"""Uses every operation of an S3 server through boto3, Amazon's own client. Arguments: the endpoint, the two keys."""

import sys

import boto3
import botocore.config
import botocore.exceptions

endpoint, access, secret = sys.argv[1:]
s3 = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret,
    config=botocore.config.Config(
        s3={"addressing_style": "path", "payload_signing_enabled": True}, retries={"max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required", response_checksum_validation="when_supported"))
B = "bucket"


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, f"{found}, not {code}: {error}"
    else:
        raise AssertionError(f"{code} was expected")


# Keys of all kinds, and what they hold.
keys = ["plain", "a b+c%20", "übung/✓", "q?x=1&y#z", "a//b", "~!*'()", "line\nfeed\x01", "k" * 1024, "e/", "<&>\""]
for key in keys:
    made = s3.put_object(Bucket=B, Key=key, Body=key.encode(), Metadata={"mtime": "1.5"}, ContentType="text/x")
    found = s3.get_object(Bucket=B, Key=key)
    assert found["Body"].read() == key.encode() and found["ETag"] == made["ETag"], key
    assert found["Metadata"] == {"mtime": "1.5"} and found["ContentType"] == "text/x"
refused("KeyTooLongError", s3.put_object, Bucket=B, Key="k" * 1025, Body=b"")

# Listings, in pages.
wanted = sorted(keys, key=str.encode)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=B, PaginationConfig={"PageSize": 3})
assert [o["Key"] for page in pages for o in page["Contents"]] == wanted
pages = s3.get_paginator("list_objects").paginate(Bucket=B, PaginationConfig={"PageSize": 3})
assert [o["Key"] for page in pages for o in page["Contents"]] == wanted
page = s3.list_objects_v2(Bucket=B, Prefix="a", Delimiter="/")
assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["a/"] and [o["Key"] for o in page["Contents"]] == ["a b+c%20"]
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=B, Delimiter="/", PaginationConfig={"PageSize": 1})
assert sum(len(page.get("CommonPrefixes", [])) + len(page.get("Contents", [])) for page in pages) == len(keys)

# Ranges, conditions, digests.
assert s3.get_object(Bucket=B, Key="plain", Range="bytes=1-2")["Body"].read() == b"la"
refused("PreconditionFailed", s3.put_object, Bucket=B, Key="plain", Body=b"", IfNoneMatch="*")
refused("BadDigest", s3.put_object, Bucket=B, Key="x", Body=b"1", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
refused("BadDigest", s3.put_object, Bucket=B, Key="x", Body=b"1", ChecksumCRC32="AAAAAA==")
refused("AccessControlListNotSupported", s3.put_object, Bucket=B, Key="x", Body=b"1", ACL="public-read")
refused("InvalidStorageClass", s3.put_object, Bucket=B, Key="x", Body=b"1", StorageClass="COLD")
refused("NoSuchKey", s3.get_object, Bucket=B, Key="x")
refused("NoSuchBucket", s3.list_objects_v2, Bucket="nobody")
s3.put_object(Bucket=B, Key="sum", Body=b"123456789", ChecksumAlgorithm="CRC32", ChecksumCRC32="y/Q5Jg==")
assert s3.head_object(Bucket=B, Key="sum", ChecksumMode="ENABLED")["ChecksumCRC32"] == "y/Q5Jg=="
assert s3.get_object(Bucket=B, Key="sum", ChecksumMode="ENABLED")["Body"].read() == b"123456789"

# Copies.
s3.copy_object(Bucket=B, Key="copy of ü", CopySource={"Bucket": B, "Key": "übung/✓"})
assert s3.head_object(Bucket=B, Key="copy of ü")["Metadata"] == {"mtime": "1.5"}
s3.copy_object(
    Bucket=B, Key="copy of ü", CopySource={"Bucket": B, "Key": "übung/✓"}, MetadataDirective="REPLACE",
    Metadata={"n": "2"})
assert s3.head_object(Bucket=B, Key="copy of ü")["Metadata"] == {"n": "2"}

# Parts.
size = 5 << 20
upload = s3.create_multipart_upload(Bucket=B, Key="big <1>", Metadata={"m": "v"})["UploadId"]
assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=B, Prefix="big")["Uploads"]] == [upload]
part = {"Bucket": B, "Key": "big <1>", "UploadId": upload}
tags = [
    s3.upload_part(PartNumber=n, Body=body, **part)["ETag"]
    for n, body in ((1, b"1" * size), (2, b"2" * size), (3, b"3"))]
s3.put_object(Bucket=B, Key="two", Body=b"0" + b"2" * size)
tags[1] = s3.upload_part_copy(
    PartNumber=2, CopySource={"Bucket": B, "Key": "two"}, CopySourceRange=f"bytes=1-{size}", **part,
)["CopyPartResult"]["ETag"]
listed = s3.list_parts(MaxParts=2, **part)
assert listed["IsTruncated"] and [p["Size"] for p in listed["Parts"]] == [size, size]
rest = s3.list_parts(PartNumberMarker=listed["NextPartNumberMarker"], **part)["Parts"]
assert [(p["PartNumber"], p["Size"]) for p in rest] == [(3, 1)]


def parts(*numbers):
    return {"Parts": [{"PartNumber": n, "ETag": tags[n - 1]} for n in numbers]}


refused("InvalidPartOrder", s3.complete_multipart_upload, MultipartUpload=parts(2, 1), **part)
done = s3.complete_multipart_upload(MultipartUpload=parts(1, 2, 3), **part)
assert done["ETag"].endswith("-3\""), done
found = s3.get_object(Bucket=B, Key="big <1>")
assert found["Body"].read() == b"1" * size + b"2" * size + b"3" and found["Metadata"] == {"m": "v"}
refused("NoSuchUpload", s3.complete_multipart_upload, MultipartUpload=parts(1, 2, 3), **part)
upload = s3.create_multipart_upload(Bucket=B, Key="never")["UploadId"]
tag = s3.upload_part(Bucket=B, Key="never", UploadId=upload, PartNumber=1, Body=b"1")["ETag"]
two = s3.upload_part(Bucket=B, Key="never", UploadId=upload, PartNumber=2, Body=b"2")["ETag"]
refused(
    "EntityTooSmall", s3.complete_multipart_upload, Bucket=B, Key="never", UploadId=upload,
    MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}, {"PartNumber": 2, "ETag": two}]})
s3.abort_multipart_upload(Bucket=B, Key="never", UploadId=upload)
refused("NoSuchUpload", s3.abort_multipart_upload, Bucket=B, Key="never", UploadId=upload)

# Versions.
assert "Status" not in s3.get_bucket_versioning(Bucket=B)
s3.put_bucket_versioning(Bucket=B, VersioningConfiguration={"Status": "Enabled"})
first = s3.put_object(Bucket=B, Key="v", Body=b"1")["VersionId"]
second = s3.put_object(Bucket=B, Key="v", Body=b"2")["VersionId"]
marker = s3.delete_object(Bucket=B, Key="v")
assert marker["DeleteMarker"]
refused("NoSuchKey", s3.get_object, Bucket=B, Key="v")
assert s3.get_object(Bucket=B, Key="v", VersionId=first)["Body"].read() == b"1"
pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=B, Prefix="v", PaginationConfig={"PageSize": 1}))
assert [v["VersionId"] for page in pages for v in page.get("Versions", [])] == [second, first]
assert [m["IsLatest"] for page in pages for m in page.get("DeleteMarkers", [])] == [True]
s3.delete_object(Bucket=B, Key="v", VersionId=marker["VersionId"])
assert s3.get_object(Bucket=B, Key="v")["Body"].read() == b"2"

# Removing.
s3.put_bucket_versioning(Bucket=B, VersioningConfiguration={"Status": "Suspended"})
spelled = [key for key in wanted if "\n" not in key]
answer = s3.delete_objects(Bucket=B, Delete={"Objects": [{"Key": key} for key in spelled + ["absent"]]})
assert sorted(d["Key"] for d in answer["Deleted"]) == sorted(spelled + ["absent"]), answer
s3.delete_object(Bucket=B, Key="line\nfeed\x01")
s3.head_bucket(Bucket=B)
s3.create_bucket(Bucket="second")
assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bucket", "second"]
s3.delete_bucket(Bucket="second")
assert s3.get_bucket_location(Bucket=B)["LocationConstraint"] is None

# Wrong keys.
wrong = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key="wrong",
    config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))
refused("SignatureDoesNotMatch", wrong.list_objects_v2, Bucket=B)
print("all is well")
