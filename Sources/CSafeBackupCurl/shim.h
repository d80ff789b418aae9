#pragma once
#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

// libcurl's functions that take any type, as one function a type: Swift calls no variadic functions. The parentheses
// keep the header's checking macros away, which want a constant option.

static inline CURLcode sb_easy_set_long(CURL *easy, CURLoption option, long value) {
    return (curl_easy_setopt)(easy, option, value);
}
static inline CURLcode sb_easy_set_offset(CURL *easy, CURLoption option, curl_off_t value) {
    return (curl_easy_setopt)(easy, option, value);
}
static inline CURLcode sb_easy_set_text(CURL *easy, CURLoption option, const char *value) {
    return (curl_easy_setopt)(easy, option, value);
}
static inline CURLcode sb_easy_set_pointer(CURL *easy, CURLoption option, void *value) {
    return (curl_easy_setopt)(easy, option, value);
}
static inline CURLcode sb_easy_set_list(CURL *easy, CURLoption option, struct curl_slist *value) {
    return (curl_easy_setopt)(easy, option, value);
}

// Called by libcurl for headers and bodies: (bytes, 1, count, context) -> taken; and for a body to send.
typedef size_t (*sb_data_callback)(char *bytes, size_t size, size_t count, void *context);
typedef int (*sb_seek_callback)(void *context, curl_off_t offset, int origin);

// At most so much that was written waits unsent in the kernel, so that what libcurl counts as sent is about on its way.
static inline int sb_prepare_socket(void *context, curl_socket_t socket, curlsocktype purpose) {
    (void)context;
    (void)purpose;
    int limit = 256 << 10;
    // Ignored because it only makes a stalled connection be noticed earlier.
    (void)setsockopt(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &limit, sizeof limit);
    return CURL_SOCKOPT_OK;
}

static inline CURLcode sb_easy_set_callbacks(
    CURL *easy, void *context, sb_data_callback header, sb_data_callback write, sb_data_callback read,
    sb_seek_callback seek) {
    CURLcode result = (curl_easy_setopt)(easy, CURLOPT_HEADERFUNCTION, header);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_HEADERDATA, context);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_WRITEFUNCTION, write);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_WRITEDATA, context);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_READFUNCTION, read);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_READDATA, context);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_SEEKFUNCTION, seek);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_SEEKDATA, context);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_PRIVATE, context);
    if (!result) result = (curl_easy_setopt)(easy, CURLOPT_SOCKOPTFUNCTION, sb_prepare_socket);
    return result;
}

static inline long sb_easy_get_long(CURL *easy, CURLINFO info) {
    long value = 0;
    return (curl_easy_getinfo)(easy, info, &value) == CURLE_OK ? value : 0;
}
static inline curl_off_t sb_easy_get_offset(CURL *easy, CURLINFO info) {
    curl_off_t value = 0;
    return (curl_easy_getinfo)(easy, info, &value) == CURLE_OK ? value : 0;
}
static inline void *sb_easy_get_context(CURL *easy) {
    char *value = NULL;
    return (curl_easy_getinfo)(easy, CURLINFO_PRIVATE, &value) == CURLE_OK ? value : NULL;
}
static inline CURLMcode sb_multi_set_long(CURLM *multi, CURLMoption option, long value) {
    return (curl_multi_setopt)(multi, option, value);
}
// The next transfer that has ended, and how; NULL: none. The message has a union, which Swift does not see.
static inline CURL *sb_multi_next_done(CURLM *multi, CURLcode *result) {
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(multi, &left));)
        if (message->msg == CURLMSG_DONE) {
            *result = message->data.result;
            return message->easy_handle;
        }
    return NULL;
}
// Constants of types that Swift does not see.
static inline size_t sb_read_pause(void) { return CURL_READFUNC_PAUSE; }
static inline size_t sb_read_abort(void) { return CURL_READFUNC_ABORT; }
static inline CURLcode sb_global_init(void) { return curl_global_init(CURL_GLOBAL_DEFAULT); }
