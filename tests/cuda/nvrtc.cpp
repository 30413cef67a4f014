// A stand-in for libnvrtc.so.13: takes CUDA C++ and gives an "image" that the stand-in for the driver reads, the source
// behind a line that says for what it was compiled, see `read_image` in driver.cpp. It compiles nothing: the kernels
// are in the driver. It refuses what NVRTC would refuse of the options, keeps count, and fails where it is told to:
// CONV_EMULATED_NVRTC="version=12030,fail=6", or `emulated_nvrtc_set`.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

namespace {

enum Code { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

struct Settings {
    std::atomic<long long> version{13000}, fail{0}, compiled{0}, programs{0};
    std::atomic<long long>* find(const std::string& name) {
        if (name == "version") return &version;    // 1000 times the major plus 10 times the minor number
        if (name == "fail") return &fail;          // the code that every compilation ends with
        if (name == "compiled") return &compiled;  // compilations that went well
        if (name == "programs") return &programs;  // those that live
        return nullptr;
    }
    Settings() {
        const char* text = getenv("CONV_EMULATED_NVRTC");
        for (std::string rest = text ? text : ""; !rest.empty();) {
            const std::string item = rest.substr(0, rest.find(','));
            rest.erase(0, std::min(rest.size(), item.size() + 1));
            const size_t equals = item.find('=');
            auto* value = equals == std::string::npos ? nullptr : find(item.substr(0, equals));
            if (!value) {
                fprintf(stderr, "emulated NVRTC: CONV_EMULATED_NVRTC has `%s`, which is no setting\n", item.c_str());
                abort();
            }
            *value = atoll(item.c_str() + equals + 1);
        }
    }
};

Settings& settings() {
    static Settings all;
    return all;
}

struct Program {
    std::string source, image, log;
    bool machine_code = false;
};

// The architectures of NVRTC 13.0.
const int ARCHITECTURES[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

// Whether code can be made for `architecture`, such as sm_90a or compute_80.
bool is_known(const std::string& architecture) {
    const bool machine_code = architecture.rfind("sm_", 0) == 0;
    if (!machine_code && architecture.rfind("compute_", 0) != 0) return false;
    char* suffix;
    const long number = strtol(architecture.c_str() + (machine_code ? 3 : 8), &suffix, 10);
    const bool family = strcmp(suffix, "f") == 0 && number >= 100, exact = strcmp(suffix, "a") == 0 && number >= 90;
    return (*suffix == 0 || family || exact) && std::count(std::begin(ARCHITECTURES), std::end(ARCHITECTURES), number);
}

const char* NAMES[] = {"NVRTC_SUCCESS",
                       "NVRTC_ERROR_OUT_OF_MEMORY",
                       "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                       "NVRTC_ERROR_INVALID_INPUT",
                       "NVRTC_ERROR_INVALID_PROGRAM",
                       "NVRTC_ERROR_INVALID_OPTION",
                       "NVRTC_ERROR_COMPILATION"};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int emulated_nvrtc_set(const char* name, long long value) {
    auto* setting = settings().find(name);
    if (!setting) return 0;
    *setting = value;
    return 1;
}
API long long emulated_nvrtc_get(const char* name) {
    auto* setting = settings().find(name);
    return setting ? setting->load() : -1;
}

API const char* nvrtcGetErrorString(int code) {
    return code >= 0 && code <= COMPILATION ? NAMES[code] : "NVRTC_ERROR unknown";
}
API int nvrtcVersion(int* major, int* minor) {
    *major = static_cast<int>(settings().version / 1000);
    *minor = static_cast<int>(settings().version % 1000 / 10);
    return SUCCESS;
}
API int nvrtcGetNumSupportedArchs(int* count) {
    *count = static_cast<int>(std::size(ARCHITECTURES));
    return SUCCESS;
}
API int nvrtcGetSupportedArchs(int* architectures) {
    std::copy(std::begin(ARCHITECTURES), std::end(ARCHITECTURES), architectures);
    return SUCCESS;
}
API int nvrtcCreateProgram(Program** program, const char* source, const char*, int headers, const char* const*, const char* const*) {
    if (!source || headers != 0) return INVALID_INPUT;
    *program = new Program{source, {}, {}, false};
    settings().programs++;
    return SUCCESS;
}
API int nvrtcDestroyProgram(Program** program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    settings().programs--;
    return SUCCESS;
}
API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (!program) return INVALID_PROGRAM;
    std::string arch;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i];
        for (const char* name : {"--gpu-architecture=", "-arch="}) {
            if (option.rfind(name, 0) != 0) continue;
            arch = option.substr(strlen(name));
            if (!is_known(arch)) {
                program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
                return INVALID_OPTION;
            }
        }
    }
    if (const int code = static_cast<int>(settings().fail)) {
        program->log = "conv.cu(1): error: told to fail\n";
        return code;
    }
    program->machine_code = arch.rfind("sm_", 0) == 0;
    if (arch.empty()) arch = "compute_75";
    unsigned long long hash = 14695981039346656037ull;
    for (const char c : program->source) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    char line[96];
    snprintf(line, sizeof line, "CONV-EMULATED %s %zu %llx\n", arch.c_str(), program->source.size(), hash);
    program->image = line + program->source;
    settings().compiled++;
    return SUCCESS;
}

static int size_of(const Program* program, const std::string Program::*text, size_t* bytes) {
    if (!program) return INVALID_PROGRAM;
    *bytes = (program->*text).size() + 1;
    return SUCCESS;
}
static int copy_of(const Program* program, const std::string Program::*text, char* to) {
    if (!program) return INVALID_PROGRAM;
    memcpy(to, (program->*text).c_str(), (program->*text).size() + 1);
    return SUCCESS;
}
API int nvrtcGetProgramLogSize(const Program* program, size_t* bytes) { return size_of(program, &Program::log, bytes); }
API int nvrtcGetProgramLog(const Program* program, char* to) { return copy_of(program, &Program::log, to); }
API int nvrtcGetPTXSize(const Program* program, size_t* bytes) { return size_of(program, &Program::image, bytes); }
API int nvrtcGetPTX(const Program* program, char* to) { return copy_of(program, &Program::image, to); }
// There is machine code only for a real architecture.
API int nvrtcGetCUBINSize(const Program* program, size_t* bytes) {
    if (program && !program->machine_code) return *bytes = 0, SUCCESS;
    return size_of(program, &Program::image, bytes);
}
API int nvrtcGetCUBIN(const Program* program, char* to) { return copy_of(program, &Program::image, to); }
