// A CUDA driver that runs kernels in the emulator: a stand-in for libcuda.so.1, so that everything above the driver's
// ABI (loading, argument lists, launch configurations, streams, events, graphs, copies, what is done about errors)
// runs unchanged on a machine without a GPU. It is linked with the device sources, compiled with CONV_EMULATED;
// each of their kernels names itself by CONV_EMULATED_KERNEL.
//
// It is stricter than a driver where it can be. Work on a stream waits until something asks for it (a
// synchronisation, an event, a copy to pageable memory), so that results read too early are not there and pinned
// memory given back too early is gone; `queue=1` runs it at once. Calls need a current context. Handles that do not
// live are refused. While a stream is captured, calls that a capture forbids are refused. Memory ends at a page that
// cannot be touched, and starts as NaN.
//
// Tests turn its screws through `emulated_set` and CONV_EMULATED="name=value,…", read its counters through
// `emulated_get`, and make calls fail through `emulated_fail` and CONV_EMULATED_FAIL="function:after:code,…". The
// names are in `settings` and `counter` below.
#include "emulator.h"

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <set>

namespace {

// The driver's error codes that it gives of itself.
enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

const std::map<int, const char*> ERROR_NAMES = {
    {0, "CUDA_SUCCESS"},
    {1, "CUDA_ERROR_INVALID_VALUE"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY"},
    {3, "CUDA_ERROR_NOT_INITIALIZED"},
    {4, "CUDA_ERROR_DEINITIALIZED"},
    {34, "CUDA_ERROR_STUB_LIBRARY"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
    {100, "CUDA_ERROR_NO_DEVICE"},
    {101, "CUDA_ERROR_INVALID_DEVICE"},
    {200, "CUDA_ERROR_INVALID_IMAGE"},
    {201, "CUDA_ERROR_INVALID_CONTEXT"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE"},
    {218, "CUDA_ERROR_INVALID_PTX"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
    {400, "CUDA_ERROR_INVALID_HANDLE"},
    {401, "CUDA_ERROR_ILLEGAL_STATE"},
    {500, "CUDA_ERROR_NOT_FOUND"},
    {600, "CUDA_ERROR_NOT_READY"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS"},
    {719, "CUDA_ERROR_LAUNCH_FAILED"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {999, "CUDA_ERROR_UNKNOWN"},
};

// ---- Settings, counters, planted failures -----------------------------------------------------------------------

using Number = std::atomic<long long>;

std::map<std::string, Number>& settings() {
    static std::map<std::string, Number> all;
    static const bool once = [] {
        const std::pair<const char*, long long> defaults[] = {
            {"order", 0},               // of threads: up, down, shuffled; of the host thread that sets it
            {"copies", 0},              // asynchronous ones land late, or at once; likewise
            {"seed", 1},                // of the shuffled order; likewise
            {"queue", 0},               // work on streams runs late, or at once
            {"lost", 0},                // the error code of everything from now on
            {"fault", 0},               // the error code of kernels' faults, if not their own: one that does not
                                        // end the use of the device lets tests go on behind a fault
            {"version", 13000},
            {"devices", 5},
            {"capability", 90},         // of the first device: ten times the major number plus the minor one
            {"multiprocessors", 132},   // of it
            {"shared", 227 << 10},      // bytes that a block of it may ask for
            {"memory", 4ll << 30},      // bytes of all devices
            {"pools", 1},               // whether there are asynchronous allocations
            {"wrong_products", 0},      // whether products of warpgroups are wrong
        };
        for (auto [name, value] : defaults) all[name] = value;
        const char* text = getenv("CONV_EMULATED");
        for (std::string rest = text ? text : ""; !rest.empty();) {
            const std::string item = rest.substr(0, rest.find(','));
            rest.erase(0, std::min(rest.size(), item.size() + 1));
            const size_t equals = item.find('=');
            if (equals == std::string::npos || !all.count(item.substr(0, equals))) {
                fprintf(stderr, "emulated GPU: CONV_EMULATED has `%s`, which is no setting\n", item.c_str());
                abort();
            }
            all[item.substr(0, equals)] = atoll(item.c_str() + equals + 1);
        }
        return true;
    }();
    (void)once;
    return all;
}

long long setting(const char* name) { return settings().at(name); }

// What the devices are like. All but the first have so few multiprocessors that small problems fill them.
struct Device {
    int capability, multiprocessors, shared;
};
Device device(int ordinal) {
    switch (ordinal) {
        case 0: return {int(setting("capability")), int(setting("multiprocessors")), int(setting("shared"))};
        case 1: return {90, 1, 227 << 10};
        case 2: return {86, 2, 99 << 10};
        case 3: return {80, 1, 163 << 10};
        default: return {75, 1, 64 << 10};
    }
}

struct Call {
    long long count = 0;
    long long left = -1;  // calls that succeed before one fails; negative: none is to fail
    int code = 0;
};

std::mutex calls_lock;
std::map<std::string, Call>& calls() {
    static std::map<std::string, Call> all;
    static const bool once = [] {
        const char* text = getenv("CONV_EMULATED_FAIL");
        for (std::string rest = text ? text : ""; !rest.empty();) {
            const std::string item = rest.substr(0, rest.find(','));
            rest.erase(0, std::min(rest.size(), item.size() + 1));
            char name[64];
            long long after;
            int code;
            if (sscanf(item.c_str(), "%63[^:]:%lld:%d", name, &after, &code) != 3) {
                fprintf(stderr, "emulated GPU: CONV_EMULATED_FAIL has `%s`, not function:after:code\n", item.c_str());
                abort();
            }
            all[name] = {0, after, code};
        }
        return true;
    }();
    (void)once;
    return all;
}

bool started = false;
// A context is its device's number, from 0x1000.
thread_local void* current_context = nullptr;
constexpr uintptr_t CONTEXTS = 0x1000;
Device current_device() { return device(int(reinterpret_cast<uintptr_t>(current_context) - CONTEXTS)); }

enum Needs { NOTHING, START, A_CONTEXT };

// Counts a call and says why it must fail, if it must.
int enter(const char* name, Needs needs) {
    {
        std::lock_guard<std::mutex> guard(calls_lock);
        Call& call = calls()[name];
        call.count++;
        if (call.left == 0) return call.code;
        if (call.left > 0) call.left--;
    }
    if (needs >= START && !started) return NOT_INITIALIZED;
    if (needs >= A_CONTEXT && setting("lost")) return setting("lost");
    if (needs >= A_CONTEXT && !current_context) return INVALID_CONTEXT;
    return SUCCESS;
}

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER(needs) \
    if (const int code = enter(__func__, needs)) return code

// ---- Memory -----------------------------------------------------------------------------------------------------

// Memory that ends, within fifteen bytes, at a page that cannot be touched.
struct Buffer {
    unsigned char *map, *start, *limit;  // `limit`: where the last page begins
    size_t bytes;
    explicit Buffer(size_t bytes) : bytes(bytes) {
        const size_t body = (bytes + emulator::PAGE - 1) / emulator::PAGE * emulator::PAGE;
        map = emulator::map_memory(body + 2 * emulator::PAGE);
        limit = map + emulator::PAGE + body;
        mprotect(map, emulator::PAGE, PROT_NONE);
        mprotect(limit, emulator::PAGE, PROT_NONE);
        start = limit - (bytes + 15) / 16 * 16;
        memset(map + emulator::PAGE, 0xff, body);
    }
    ~Buffer() { munmap(map, limit + emulator::PAGE - map); }
    Buffer(const Buffer&) = delete;
    bool is_intact() const {
        return emulator::is_poison(map + emulator::PAGE, start) && emulator::is_poison(start + bytes, limit);
    }
};

using Pointer = unsigned long long;
std::mutex memory_lock;
std::map<Pointer, std::unique_ptr<Buffer>> memory;   // of the device
std::map<Pointer, std::unique_ptr<Buffer>> pinned;   // of the host
size_t memory_used = 0;

bool holds(const std::map<Pointer, std::unique_ptr<Buffer>>& buffers, const void* at, size_t bytes) {
    const Pointer p = reinterpret_cast<Pointer>(at);
    auto i = buffers.upper_bound(p);
    if (i == buffers.begin()) return false;
    --i;
    return p - i->first <= i->second->bytes && bytes <= i->second->bytes - (p - i->first);
}

bool on_device(Pointer p, size_t bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    return holds(memory, reinterpret_cast<void*>(p), bytes);
}

bool is_pinned(const void* p, size_t bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    return holds(pinned, p, bytes);
}

std::string describe(const void* address) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const auto* at = static_cast<const unsigned char*>(address);
    for (const auto& [start, buffer] : memory) {
        if (at < buffer->map || at >= buffer->limit + emulator::PAGE) continue;
        const std::string size = std::to_string(buffer->bytes) + " bytes";
        if (at >= buffer->start + buffer->bytes)
            return std::to_string(at - buffer->start - buffer->bytes) + " bytes past the end of a buffer of " + size;
        return std::to_string(buffer->start - at) + " bytes before a buffer of " + size;
    }
    return "in no buffer";
}

// The memory map is drained of what streams still do to a buffer before this.
int release(Pointer p) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const auto i = memory.find(p);
    if (i == memory.end()) return INVALID_VALUE;
    const bool intact = i->second->is_intact();
    if (!intact) fprintf(stderr, "emulated GPU: something was written beside a buffer of %zu bytes\n", i->second->bytes);
    memory_used -= i->second->bytes;
    memory.erase(i);
    return intact ? int(SUCCESS) : int(emulator::IllegalAddress);
}

// ---- Streams, events, graphs ------------------------------------------------------------------------------------

using Work = std::function<int()>;

struct Stream {
    bool blocking = true;            // whether the null stream waits for it, and it for that
    std::recursive_mutex lock;       // held while its work runs
    std::deque<Work> queue;
    unsigned long long queued = 0, finished = 0;
    int error = 0;                   // of work that failed; told by the next call that waits
    bool capturing = false, invalid = false;
    std::vector<Work> captured;
};

// Shared: a thread may wait for a stream that another one destroys meanwhile.
using StreamPointer = std::shared_ptr<Stream>;

struct Event {
    bool timed = true, recorded = false;
    StreamPointer stream;
    unsigned long long ticket = 0;   // what its stream must have finished
    std::atomic<double> milliseconds{0};
};

struct Graph {
    std::vector<Work> work;
};

struct Module {
    std::string image;
};

struct Function {
    emulator::Kernel* kernel;
    std::string name;
    long long most_shared = 48 << 10;
};

std::mutex handles_lock;
template <class T> std::set<T*>& handles() {
    static std::set<T*> all;
    return all;
}
template <class T> T* add_handle(T* handle) {
    std::lock_guard<std::mutex> guard(handles_lock);
    handles<T>().insert(handle);
    return handle;
}
template <class T> bool lives(void* handle) {
    std::lock_guard<std::mutex> guard(handles_lock);
    return handles<T>().count(static_cast<T*>(handle));
}
template <class T> int remove_handle(void* handle) {
    {
        std::lock_guard<std::mutex> guard(handles_lock);
        if (!handles<T>().erase(static_cast<T*>(handle))) return INVALID_HANDLE;
    }
    delete static_cast<T*>(handle);
    return SUCCESS;
}

std::map<void*, StreamPointer> streams;  // by their handles; of `handles_lock`

const StreamPointer& null_stream() {
    static const StreamPointer stream = std::make_shared<Stream>();
    return stream;
}

// Null, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD are one stream here.
StreamPointer stream_of(void* handle) {
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return null_stream();
    std::lock_guard<std::mutex> guard(handles_lock);
    const auto i = streams.find(handle);
    return i == streams.end() ? nullptr : i->second;
}

// Runs what is queued, up to a ticket.
void finish(Stream& stream, unsigned long long ticket = ~0ull) {
    std::lock_guard<std::recursive_mutex> guard(stream.lock);
    while (stream.finished < ticket && !stream.queue.empty()) {
        const Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        const int code = work();
        stream.finished++;
        if (code && !stream.error) stream.error = code;
    }
}

// Runs what is queued and tells what failed.
int wait_for(Stream& stream) {
    finish(stream);
    std::lock_guard<std::recursive_mutex> guard(stream.lock);
    return std::exchange(stream.error, 0);
}

std::vector<StreamPointer> all_streams() {
    std::lock_guard<std::mutex> guard(handles_lock);
    std::vector<StreamPointer> all;
    for (const auto& [handle, stream] : streams) all.push_back(stream);
    all.push_back(null_stream());
    return all;
}

int wait_for_all() {
    int code = SUCCESS;
    for (const StreamPointer& stream : all_streams()) {
        const int failed = wait_for(*stream);
        code = code ? code : failed;
    }
    return code;
}

thread_local int captures_of_thread = 0;

// Calls that would wait for the device, or use the null stream, break a capture that the thread has begun.
#define FORBIDDEN_IN_CAPTURE() \
    if (captures_of_thread > 0) return break_captures()
int break_captures() {
    for (const StreamPointer& stream : all_streams()) stream->invalid |= stream->capturing;
    return CAPTURE_UNSUPPORTED;
}

// Puts work on a stream, or into the graph that it is captured for.
int put(void* handle, Work work) {
    const StreamPointer stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    std::lock_guard<std::recursive_mutex> guard(stream->lock);
    if (stream->capturing) {
        stream->captured.push_back(std::move(work));
        return SUCCESS;
    }
    if (stream == null_stream() || stream->blocking) {
        if (stream == null_stream() && captures_of_thread > 0) return break_captures();
        // Streams that the null stream waits for are in order with it.
        for (const StreamPointer& other : all_streams())
            if (other != stream && other->blocking && (stream == null_stream() || other == null_stream())) finish(*other);
    }
    stream->queue.push_back(std::move(work));
    stream->queued++;
    if (setting("queue") == 1) finish(*stream);
    return SUCCESS;
}

bool is_capturing(void* handle) {
    const StreamPointer stream = stream_of(handle);
    return stream && stream->capturing;
}

// ---- Kernels ----------------------------------------------------------------------------------------------------

thread_local bool has_schedule = false;
thread_local emulator::Schedule schedule;

void set_schedule(const std::string& name, long long value) {
    if (!has_schedule) {
        schedule = {emulator::Order(setting("order")), emulator::Copies(setting("copies")), unsigned(setting("seed"))};
        has_schedule = true;
    }
    if (name == "order") schedule.order = emulator::Order(value);
    if (name == "copies") schedule.copies = emulator::Copies(value);
    if (name == "seed") schedule.seed = unsigned(value);
}

int run_kernel(Function& function, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body) {
    set_schedule("", 0);
    emulator::describe_address = describe;
    emulator::this_machine().schedule = schedule;
    function.kernel->launches++;
    emulator::wrong_products = setting("wrong_products") != 0;
    const int code = emulator::launch(function.name.c_str(), grid, block, shared, body);
    return code && setting("fault") ? int(setting("fault")) : code;
}

// The text of an image that the stand-in for NVRTC made for the current device, or for one that it can translate: a
// line `CONV-EMULATED architecture bytes hash`, then the source. A real cubin is taken too: its names are in it.
int read_image(const char* image, std::string& text) {
    if (memcmp(image, "\177ELF", 4) == 0) {
        uint64_t sections;
        uint16_t size, count;
        memcpy(&sections, image + 40, 8);
        memcpy(&size, image + 58, 2);
        memcpy(&count, image + 60, 2);
        text.assign(image, sections + uint64_t(size) * count);
        return SUCCESS;
    }
    int capability, header;
    char kind[8], suffix[2] = "";
    size_t bytes;
    unsigned long long hash, found = 14695981039346656037ull;
    if (sscanf(image, "CONV-EMULATED %7[a-z]_%d%1[af]%n", kind, &capability, suffix, &header) != 3 &&
        sscanf(image, "CONV-EMULATED %7[a-z]_%d%n", kind, &capability, &header) != 2)
        return INVALID_IMAGE;
    image += header;
    if (sscanf(image, " %zu %llx%n", &bytes, &hash, &header) != 2 || image[header] != '\n') return INVALID_IMAGE;
    const char* start = image + header + 1;
    if (strnlen(start, bytes) != bytes) return INVALID_IMAGE;
    for (size_t i = 0; i < bytes; i++) found = (found ^ static_cast<unsigned char>(start[i])) * 1099511628211ull;
    if (found != hash) return INVALID_IMAGE;
    const int device = current_device().capability;
    const bool machine_code = strcmp(kind, "sm") == 0;
    if (capability > device || (machine_code && capability / 10 != device / 10)) return NO_BINARY_FOR_GPU;
    if (suffix[0] == 'a' && capability != device) return NO_BINARY_FOR_GPU;
    text.assign(start, bytes);
    return SUCCESS;
}

bool has_word(const std::string& text, const std::string& word) {
    auto in_word = [](char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; };
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const size_t end = at + word.size();
        if ((at == 0 || !in_word(text[at - 1])) && (end == text.size() || !in_word(text[end]))) return true;
    }
    return false;
}

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool settings_of_thread(const std::string& name) { return name == "order" || name == "copies" || name == "seed"; }

}  // namespace

// ---- For tests --------------------------------------------------------------------------------------------------

// Changes a setting. Returns whether there is one of this name.
API emulated_set(const char* name, long long value) {
    if (settings_of_thread(name)) {
        set_schedule(name, value);
        return 1;
    }
    const auto i = settings().find(name);
    if (i == settings().end()) return 0;
    i->second = value;
    return 1;
}

// Makes a function of the driver fail with `code`, each time after `after` more calls; never, if that is negative.
API emulated_fail(const char* function, long long after, int code) {
    std::lock_guard<std::mutex> guard(calls_lock);
    Call& call = calls()[function];
    call.left = after;
    call.code = code;
    return 1;
}

// A number: of calls of a function by its name, of launches of a kernel by its name, or what lives; -1 for an unknown
// name. Work that was queued is done first.
extern "C" __attribute__((visibility("default"))) long long emulated_get(const char* name) {
    for (const StreamPointer& stream : all_streams()) finish(*stream);
    const std::string wanted = name;
    {
        std::lock_guard<std::mutex> guard(memory_lock);
        if (wanted == "buffers") return memory.size();
        if (wanted == "bytes") return memory_used;
        if (wanted == "pinned") return pinned.size();
    }
    {
        std::lock_guard<std::mutex> guard(handles_lock);
        if (wanted == "streams") return streams.size();
        if (wanted == "events") return handles<Event>().size();
        if (wanted == "modules") return handles<Module>().size();
        if (wanted == "graphs") return handles<Graph>().size();
    }
    const auto kernel = emulator::kernels().find(wanted);
    if (kernel != emulator::kernels().end()) return kernel->second.launches;
    std::lock_guard<std::mutex> guard(calls_lock);
    const auto call = calls().find(wanted);
    if (call != calls().end()) return call->second.count;
    return wanted.rfind("cu", 0) == 0 ? 0 : -1;
}

// ---- The driver's functions -------------------------------------------------------------------------------------

API cuInit(unsigned flags) {
    ENTER(NOTHING);
    if (flags) return INVALID_VALUE;
    if (setting("devices") == 0) return NO_DEVICE;
    started = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) {
    ENTER(NOTHING);
    *version = setting("version");
    return SUCCESS;
}
API cuGetErrorName(int code, const char** name) {
    const auto i = ERROR_NAMES.find(code);
    *name = i == ERROR_NAMES.end() ? nullptr : i->second;
    return *name ? SUCCESS : INVALID_VALUE;
}
API cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }
// NVRTC 13 asks any driver that it finds for a private table and does not look whether it got one: an empty one (its
// size) satisfies it.
API cuGetExportTable(const void** table, const void*) {
    static const size_t empty[1] = {8};
    *table = empty;
    return SUCCESS;
}

API cuDeviceGetCount(int* count) {
    ENTER(START);
    *count = setting("devices");
    return SUCCESS;
}
API cuDeviceGet(int* device, int ordinal) {
    ENTER(START);
    if (ordinal < 0 || ordinal >= setting("devices")) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
API cuDeviceGetName(char* name, int length, int) {
    ENTER(START);
    snprintf(name, length, "emulated GPU");
    return SUCCESS;
}
API cuDeviceGetUuid_v2(char* uuid, int device) {
    ENTER(START);
    memset(uuid, 0, 16);
    uuid[15] = static_cast<char>(device);
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* bytes, int) {
    ENTER(START);
    *bytes = setting("memory");
    return SUCCESS;
}
API cuDeviceGetAttribute(int* value, int attribute, int ordinal) {
    ENTER(START);
    const Device facts = device(ordinal);
    switch (attribute) {
        case 1: *value = 1024; break;                             // threads of a block
        case 2: case 3: *value = 1024; break;                     // along x and y
        case 4: *value = 64; break;                               // along z
        case 5: *value = 2147483647; break;                       // blocks along x
        case 6: case 7: *value = 65535; break;                    // along y and z
        case 8: *value = 48 << 10; break;                         // shared bytes of a block
        case 10: *value = 32; break;                              // lanes of a warp
        case 12: case 82: *value = 65536; break;                  // registers
        case 13: *value = 1000000; break;                         // kHz
        case 16: *value = facts.multiprocessors; break;
        case 36: *value = 1000000; break;                         // kHz of memory
        case 37: *value = 4096; break;                            // bits of its bus
        case 38: *value = 50 << 20; break;                        // bytes of the second-level cache
        case 39: *value = 2048; break;                            // threads of a multiprocessor
        case 75: *value = facts.capability / 10; break;
        case 76: *value = facts.capability % 10; break;
        case 81: *value = facts.shared + (1 << 10); break;   // shared bytes of a multiprocessor
        case 97: *value = facts.shared; break;               // of a block that asks for them
        case 106: *value = 32; break;                             // blocks of a multiprocessor
        case 115: *value = setting("pools"); break;
        default: *value = 0;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER(START);
    if (setting("lost")) return setting("lost");
    if (device < 0 || device >= setting("devices")) return INVALID_DEVICE;
    *context = reinterpret_cast<void*>(CONTEXTS + device);
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) {
    ENTER(START);
    return SUCCESS;
}
API cuCtxGetCurrent(void** context) {
    ENTER(START);
    *context = current_context;
    return SUCCESS;
}
API cuCtxSetCurrent(void* context) {
    ENTER(START);
    const uintptr_t number = reinterpret_cast<uintptr_t>(context);
    if (context && (number < CONTEXTS || number >= CONTEXTS + setting("devices"))) return INVALID_CONTEXT;
    current_context = context;
    return SUCCESS;
}
API cuCtxSynchronize() {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    return wait_for_all();
}

API cuModuleLoadData(void** module, const void* image) {
    ENTER(A_CONTEXT);
    auto read = std::make_unique<Module>();
    if (const int code = read_image(static_cast<const char*>(image), read->image)) return code;
    *module = add_handle(read.release());
    return SUCCESS;
}
API cuModuleUnload(void* module) {
    ENTER(A_CONTEXT);
    if (const int code = wait_for_all()) return code;
    return remove_handle<Module>(module);
}
API cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER(A_CONTEXT);
    if (!lives<Module>(module)) return INVALID_HANDLE;
    const auto i = emulator::kernels().find(name);
    if (i == emulator::kernels().end() || !has_word(static_cast<Module*>(module)->image, name)) return NOT_FOUND;
    // Functions live as long as the driver: a module's user may hold one when the module is gone.
    *function = add_handle(new Function{&i->second, name});
    return SUCCESS;
}
API cuFuncSetAttribute(void* function, int attribute, int value) {
    ENTER(A_CONTEXT);
    if (!lives<Function>(function)) return INVALID_HANDLE;
    if (attribute == 8) {  // dynamic shared memory
        if (value < 0 || value > current_device().shared) return INVALID_VALUE;
        static_cast<Function*>(function)->most_shared = value;
    }
    return SUCCESS;
}
API cuFuncGetAttribute(int* value, int attribute, void* function) {
    ENTER(A_CONTEXT);
    if (!lives<Function>(function)) return INVALID_HANDLE;
    const auto* f = static_cast<Function*>(function);
    *value = attribute == 0 ? int(f->kernel->threads) : attribute == 8 ? int(f->most_shared) : 0;
    return SUCCESS;
}
API cuFuncSetCacheConfig(void*, int) {
    ENTER(A_CONTEXT);
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t shared) {
    ENTER(A_CONTEXT);
    if (!lives<Function>(function) || threads <= 0) return INVALID_VALUE;
    const long long by_shared = (current_device().shared + (1 << 10)) / (static_cast<long long>(shared) + (1 << 10));
    *blocks = static_cast<int>(std::min<long long>({2048 / threads, by_shared, 32}));
    return SUCCESS;
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER(A_CONTEXT);
    std::lock_guard<std::mutex> guard(memory_lock);
    *total = setting("memory");
    *free = *total - memory_used;
    return SUCCESS;
}
static int allocate(Pointer* p, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(memory_lock);
    if (bytes > static_cast<size_t>(setting("memory")) - memory_used) return OUT_OF_MEMORY;
    auto buffer = std::make_unique<Buffer>(bytes);
    memory_used += bytes;
    *p = reinterpret_cast<Pointer>(buffer->start);
    memory[*p] = std::move(buffer);
    return SUCCESS;
}
API cuMemAlloc_v2(Pointer* p, size_t bytes) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    return allocate(p, bytes);
}
// There at once, which no kernel can tell from being there in the stream's order.
API cuMemAllocAsync(Pointer* p, size_t bytes, void* stream) {
    ENTER(A_CONTEXT);
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (is_capturing(stream)) return break_captures();
    return allocate(p, bytes);
}
API cuMemFree_v2(Pointer p) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    for (const StreamPointer& stream : all_streams()) finish(*stream);
    return release(p);
}
API cuMemFreeAsync(Pointer p, void* stream) {
    ENTER(A_CONTEXT);
    if (!on_device(p, 0)) return INVALID_VALUE;
    if (is_capturing(stream)) return break_captures();
    return put(stream, [p] { return release(p); });
}
API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    if (bytes == 0) return INVALID_VALUE;
    auto buffer = std::make_unique<Buffer>(bytes);
    *p = buffer->start;
    std::lock_guard<std::mutex> guard(memory_lock);
    pinned[reinterpret_cast<Pointer>(*p)] = std::move(buffer);
    return SUCCESS;
}
API cuMemFreeHost(void* p) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    for (const StreamPointer& stream : all_streams()) finish(*stream);
    std::lock_guard<std::mutex> guard(memory_lock);
    const auto i = pinned.find(reinterpret_cast<Pointer>(p));
    if (i == pinned.end()) return INVALID_VALUE;
    const bool intact = i->second->is_intact();
    pinned.erase(i);
    return intact ? int(SUCCESS) : int(emulator::IllegalAddress);
}

// Pageable memory is read before the call returns, pinned memory when the work is done.
API cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    ENTER(A_CONTEXT);
    if (!on_device(to, bytes)) return INVALID_VALUE;
    void* const target = reinterpret_cast<void*>(to);
    if (is_pinned(from, bytes) || is_capturing(stream)) {
        return put(stream, [=] {
            memcpy(target, from, bytes);
            return SUCCESS;
        });
    }
    const auto* start = static_cast<const unsigned char*>(from);
    auto staged = std::make_shared<std::vector<unsigned char>>(start, start + bytes);
    return put(stream, [=] {
        memcpy(target, staged->data(), bytes);
        return SUCCESS;
    });
}
// Pageable memory is written before the call returns.
API cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    ENTER(A_CONTEXT);
    if (!on_device(from, bytes)) return INVALID_VALUE;
    const int code = put(stream, [=] {
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
    if (code || is_capturing(stream) || is_pinned(to, bytes)) return code;
    return wait_for(*stream_of(stream));
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    ENTER(A_CONTEXT);
    if (!on_device(to, bytes) || !on_device(from, bytes)) return INVALID_VALUE;
    return put(stream, [=] {
        memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
}
API cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    if (!on_device(to, bytes)) return INVALID_VALUE;
    const int code = wait_for(*null_stream());
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return code;
}
API cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    if (!on_device(from, bytes)) return INVALID_VALUE;
    const int code = wait_for(*null_stream());
    memcpy(to, reinterpret_cast<void*>(from), bytes);
    return code;
}
API cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) {
    ENTER(A_CONTEXT);
    if (!on_device(to, bytes)) return INVALID_VALUE;
    return put(stream, [=] {
        memset(reinterpret_cast<void*>(to), value, bytes);
        return SUCCESS;
    });
}
API cuMemsetD8_v2(Pointer to, unsigned char value, size_t bytes) {
    ENTER(A_CONTEXT);
    FORBIDDEN_IN_CAPTURE();
    if (!on_device(to, bytes)) return INVALID_VALUE;
    const int code = wait_for(*null_stream());
    memset(reinterpret_cast<void*>(to), value, bytes);
    return code;
}

API cuStreamCreate(void** stream, unsigned flags) {
    ENTER(A_CONTEXT);
    const auto made = std::make_shared<Stream>();
    made->blocking = !(flags & 1);
    *stream = made.get();
    std::lock_guard<std::mutex> guard(handles_lock);
    streams[*stream] = made;
    return SUCCESS;
}
API cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void* stream) {
    ENTER(A_CONTEXT);
    const StreamPointer found = stream_of(stream);
    if (!found || found == null_stream()) return INVALID_HANDLE;
    finish(*found);
    std::lock_guard<std::mutex> guard(handles_lock);
    streams.erase(stream);
    return SUCCESS;
}
API cuStreamSynchronize(void* stream) {
    ENTER(A_CONTEXT);
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (is_capturing(stream)) return break_captures();
    return wait_for(*stream_of(stream));
}
API cuStreamQuery(void* stream) {
    ENTER(A_CONTEXT);
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (is_capturing(stream)) return break_captures();
    return wait_for(*stream_of(stream));
}
API cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER(A_CONTEXT);
    const StreamPointer stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream == null_stream()) return CAPTURE_UNSUPPORTED;
    if (stream->capturing || mode < 0 || mode > 2) return INVALID_VALUE;
    stream->capturing = true;
    stream->invalid = false;
    stream->captured.clear();
    captures_of_thread++;
    return SUCCESS;
}
API cuStreamEndCapture(void* handle, void** graph) {
    ENTER(A_CONTEXT);
    const StreamPointer stream = stream_of(handle);
    if (!stream || !stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    captures_of_thread--;
    *graph = nullptr;
    if (stream->invalid) return CAPTURE_INVALIDATED;
    auto* made = new Graph;
    made->work.swap(stream->captured);
    *graph = add_handle(made);
    return SUCCESS;
}
API cuStreamIsCapturing(void* stream, int* status) {
    ENTER(A_CONTEXT);
    if (!stream_of(stream)) return INVALID_HANDLE;
    *status = !is_capturing(stream) ? 0 : stream_of(stream)->invalid ? 2 : 1;
    return SUCCESS;
}
API cuStreamWaitEvent(void* stream, void* handle, unsigned) {
    ENTER(A_CONTEXT);
    if (!lives<Event>(handle)) return INVALID_HANDLE;
    const auto* event = static_cast<Event*>(handle);
    if (!event->recorded) return SUCCESS;
    // An event from outside cannot be part of a graph.
    if (is_capturing(stream) && event->stream != stream_of(stream)) return break_captures();
    const StreamPointer other = event->stream;
    const unsigned long long ticket = event->ticket;
    return put(stream, [=] {
        finish(*other, ticket);
        return SUCCESS;
    });
}
API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    ENTER(A_CONTEXT);
    return put(stream, [=] {
        function(data);
        return SUCCESS;
    });
}

API cuEventCreate(void** event, unsigned flags) {
    ENTER(A_CONTEXT);
    auto* made = new Event;
    made->timed = !(flags & 2);
    *event = add_handle(made);
    return SUCCESS;
}
API cuEventDestroy_v2(void* event) {
    ENTER(A_CONTEXT);
    if (lives<Event>(event) && static_cast<Event*>(event)->stream) finish(*static_cast<Event*>(event)->stream);
    return remove_handle<Event>(event);
}
API cuEventRecord(void* handle, void* stream) {
    ENTER(A_CONTEXT);
    if (!lives<Event>(handle)) return INVALID_HANDLE;
    auto* event = static_cast<Event*>(handle);
    const int code = put(stream, [=] {
        event->milliseconds = now();
        return SUCCESS;
    });
    if (code) return code;
    event->recorded = true;
    event->stream = stream_of(stream);
    event->ticket = event->stream->queued;
    return SUCCESS;
}
API cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }
API cuEventSynchronize(void* handle) {
    ENTER(A_CONTEXT);
    if (!lives<Event>(handle)) return INVALID_HANDLE;
    const auto* event = static_cast<Event*>(handle);
    if (!event->recorded) return SUCCESS;
    finish(*event->stream, event->ticket);
    return event->stream->error;
}
API cuEventQuery(void* event) { return cuEventSynchronize(event); }
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    ENTER(A_CONTEXT);
    if (!lives<Event>(from) || !lives<Event>(to)) return INVALID_HANDLE;
    const auto *a = static_cast<Event*>(from), *b = static_cast<Event*>(to);
    if (!a->timed || !b->timed || !a->recorded || !b->recorded) return INVALID_HANDLE;
    if (a->stream->finished < a->ticket || b->stream->finished < b->ticket) return NOT_READY;
    *milliseconds = static_cast<float>(b->milliseconds - a->milliseconds);
    return SUCCESS;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) { return cuEventElapsedTime_v2(milliseconds, from, to); }

API cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
    ENTER(A_CONTEXT);
    if (!lives<Graph>(graph)) return INVALID_HANDLE;
    *made = add_handle(new Graph(*static_cast<Graph*>(graph)));
    return SUCCESS;
}
API cuGraphUpload(void* graph, void*) {
    ENTER(A_CONTEXT);
    return lives<Graph>(graph) ? SUCCESS : INVALID_HANDLE;
}
API cuGraphLaunch(void* graph, void* stream) {
    ENTER(A_CONTEXT);
    if (!lives<Graph>(graph)) return INVALID_HANDLE;
    for (const Work& work : static_cast<Graph*>(graph)->work)
        if (const int code = put(stream, work)) return code;
    return SUCCESS;
}
API cuGraphExecDestroy(void* graph) {
    ENTER(A_CONTEXT);
    return remove_handle<Graph>(graph);
}
API cuGraphDestroy(void* graph) {
    ENTER(A_CONTEXT);
    return remove_handle<Graph>(graph);
}

API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra) {
    ENTER(A_CONTEXT);
    if (!lives<Function>(handle)) return INVALID_HANDLE;
    auto* function = static_cast<Function*>(handle);
    const unsigned long long threads = 1ull * block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_x > 2147483647u || grid_y > 65535 || grid_z > 65535) return INVALID_VALUE;
    if (threads == 0 || threads > function->kernel->threads || block_z > 64) return INVALID_VALUE;
    if (shared > function->most_shared || extra) return INVALID_VALUE;
    const std::function<void()> body = function->kernel->bind(arguments);
    return put(stream, [=] {
        return run_kernel(*function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, body);
    });
}
