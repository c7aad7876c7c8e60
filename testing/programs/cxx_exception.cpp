// SIGABRT: a C++ exception that nobody catches; std::terminate tells its what() on stderr.
#include <stdexcept>

extern "C" void cxx_exception()
{
    throw std::runtime_error("bad index");
}
