// A static object whose destructor dies: not before the interpreter has ended, and only where a test has asked for it.
#include <cstdlib>

namespace {

struct Static {
    bool is_armed = false;
    ~Static()
    {
        if (is_armed)
            std::abort();
    }
};

Static object;

}  // namespace

extern "C" void die_in_destructor()
{
    object.is_armed = true;
}
