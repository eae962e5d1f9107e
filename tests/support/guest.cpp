/* guest.cpp LIBRARY: calls the functions of a shared library for guest_library.py, whose processor is another one.
 * A call comes from standard input, in numbers of 64 bits unless another size is given:
 *   the function's name (32 bytes), what it returns (0: a whole number, 1: a double, 2: a text), how many blocks and
 *   how many pointers there are
 *   each block of memory: its size, and then its bytes; block 0 is the call's eight arguments
 *   each pointer: the block and the offset where it lies, and the block that it must point to
 * The answer goes to standard output: what the function returned (8 bytes, of a text the first ones), and then the bytes
 * of every block as they are after the call.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <dlfcn.h>

void read(void* to, std::size_t size) {
    if (std::fread(to, 1, size, stdin) != size) std::exit(0);  // There are no more calls.
}

std::int64_t read_number() {
    std::int64_t number;
    read(&number, sizeof number);
    return number;
}

/* Calls a function with eight whole numbers or addresses. It may take fewer: the others then lie in registers that it
 * does not read (Procedure Call Standard for the Arm 64-bit Architecture, section 6.8.2, rule C.9).
 */
template <class Result>
Result call(void* function, const std::int64_t* a) {
    using W = std::int64_t;
    return reinterpret_cast<Result (*)(W, W, W, W, W, W, W, W)>(function)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

int main(int, char** arguments) {
    void* const library = dlopen(arguments[1], RTLD_NOW);
    if (!library) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (;;) {
        char name[32];
        read(name, sizeof name);
        const std::int64_t kind = read_number();
        std::vector<std::vector<char>> blocks(read_number());
        const std::int64_t pointers = read_number();
        for (auto& block : blocks) {
            block.resize(read_number());
            read(block.data(), block.size());
        }
        for (std::int64_t i = 0; i < pointers; ++i) {
            char* const at = blocks[read_number()].data();
            const std::int64_t offset = read_number();
            const char* const target = blocks[read_number()].data();
            std::memcpy(at + offset, &target, sizeof target);
        }
        void* const function = dlsym(library, name);
        std::int64_t words[8];
        std::memcpy(words, blocks[0].data(), sizeof words);
        char result[8];
        if (kind == 1) {
            const double number = call<double>(function, words);
            std::memcpy(result, &number, sizeof result);
        } else if (kind == 2) {
            std::strncpy(result, call<const char*>(function, words), sizeof result);
        } else {
            const std::int64_t number = call<std::int64_t>(function, words);
            std::memcpy(result, &number, sizeof result);
        }
        std::fwrite(result, 1, sizeof result, stdout);
        for (const auto& block : blocks) std::fwrite(block.data(), 1, block.size(), stdout);
        std::fflush(stdout);
    }
}
